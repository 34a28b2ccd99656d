from pyroute2.netlink import nlmsg

NUD_PERMANENT: int

class ndmsg(nlmsg): ...
