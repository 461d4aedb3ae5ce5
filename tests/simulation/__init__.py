"""Whole runs drawn from a seed, in virtual time: many peers, faults and liars, and what must hold.

After FoundationDB (Zhou et al., SIGMOD 2021): one seed decides everything, so that a failure found
among thousands of runs is the same failure again under a debugger.
"""
