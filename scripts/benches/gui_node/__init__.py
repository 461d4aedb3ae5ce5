"""A node without network and training, with as many peers as wanted, behind the real control API.

As a program (`python -m benches.gui_node HOME --peers 5000`) it serves until it is told to end;
the window of benchmarks and pictures attaches to it as to any other.
"""
