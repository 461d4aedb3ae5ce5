"""Modified clients against real nodes: every attack that docs/security.md promises to stand.

hostile           a stranger's own p2pd, which says whatever a test wants
test_strangers    what is refused, counted under its reason and held against its sender
test_floods       what a node's memory and throughput lose to a stranger that asks too much
test_crowds       many identities of one stranger
test_discouraged  who is not listened to for a while, and above all who is not to blame
"""
