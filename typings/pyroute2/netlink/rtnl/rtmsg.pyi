from pyroute2.netlink import nlmsg

RTNH_F_ONLINK: int

class rtmsg(nlmsg): ...
