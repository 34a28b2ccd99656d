from pyroute2.netlink import nlmsg

IFF_UP: int
IFF_NOARP: int

class ifinfmsg(nlmsg): ...
