"""Every decoder of what a peer, a file or a program gives, and inputs that try to break it.

`choices` is where all randomness comes from; `values` builds valid inputs, the forms (`packed`,
`notation`, `protobufs`, `plain`) break them where their structure is; `targets_…` names the
decoders and `registry` holds them all. tests/test_fuzz.py tries each a little, and
`scripts/soak fuzz` for as long as asked.
"""
