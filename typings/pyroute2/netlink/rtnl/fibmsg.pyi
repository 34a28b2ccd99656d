from pyroute2.netlink import nlmsg

FR_ACT_TO_TBL: int

class fibmsg(nlmsg): ...
