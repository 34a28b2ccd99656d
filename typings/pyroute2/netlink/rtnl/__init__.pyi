RTM_NEWLINK: int
RTM_DELLINK: int
RTM_GETLINK: int
RTM_SETLINK: int
RTM_NEWADDR: int
RTM_DELADDR: int
RTM_GETADDR: int
RTM_NEWROUTE: int
RTM_DELROUTE: int
RTM_GETROUTE: int
RTM_NEWNEIGH: int
RTM_GETNEIGH: int
RTM_NEWRULE: int
RTM_DELRULE: int
RTM_GETRULE: int
RTM_NEWQDISC: int
RTM_DELQDISC: int
RTM_NEWTFILTER: int
RTM_DELTFILTER: int
RTM_GETTFILTER: int
TC_H_CLSACT: int
# these also map numbers to names, which is not said here: nobody needs it
rt_proto: dict[str, int]
rt_scope: dict[str, int]
rt_type: dict[str, int]
