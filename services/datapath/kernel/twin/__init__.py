"""What the programs do with a packet, executed in Python on the packet's bytes: written from docs/datapath.md, not from the C."""
