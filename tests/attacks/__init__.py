"""Modified clients against real nodes: every attack that docs/security.md promises to stand.

hostile           a stranger's own p2pd, which says whatever a test wants
victim            the node that is attacked, and how much its memory grows meanwhile
floods            what a stranger asks without end
stranger          a stranger to a private run, as a program of its own
test_strangers    what is refused, counted under its reason and held against its sender
test_floods       what a stranger that asks too much takes of a node's memory
test_crowds       many identities of one stranger
test_discouraged  who is not listened to for a while, and above all who is not to blame
"""
