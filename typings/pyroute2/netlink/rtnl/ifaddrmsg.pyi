from pyroute2.netlink import nlmsg

IFA_F_NODAD: int
IFA_F_NOPREFIXROUTE: int

class ifaddrmsg(nlmsg): ...
