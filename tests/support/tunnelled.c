/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What stands around the datapath's programs when tunnels' packets are tried:
 * test-run has no tunnel. The text of the programs comes before this, as
 * functions. `bring` hands the real from_overlay a packet with its tunnel; the
 * others are the programs, and tell afterwards in which tunnel the packet would
 * have gone.
 */
struct whole_tunnel_key { /* the kernel's, as it has been since 6.0 */
	__u32 number;
	__u32 remote[4];
	__u8 tos;
	__u8 ttl;
	__u16 extension;
	__u32 label;
	__u32 local[4];
};

/* Addresses in network order; IPv4 in the first word. Family 0: no tunnel. */
struct told_tunnel {
	__u32 family;
	__u32 number;
	__u32 address[4];
};
BPF_ARRAY(told_tunnels, struct told_tunnel, 2);
BPF_PROG_ARRAY(bearers, 1);

int bring(struct __sk_buff *skb)
{
	struct whole_tunnel_key key ALIGNED = {.ttl = 64};
	__u32 zero = 0;
	struct told_tunnel *told = told_tunnels.lookup(&zero);
	__u64 flags = 0;

	if (!told)
		return TC_ACT_UNSPEC;
	key.number = told->number;
	if (told->family == 4) {
		key.local[0] = BE32(told->address[0]);
	} else {
		__builtin_memcpy(key.local, told->address, 16);
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (told->family && bpf_skb_set_tunnel_key(skb, (void *)&key, sizeof(key), flags))
		return TC_ACT_UNSPEC;
	bearers.call(skb, 0);
	return TC_ACT_UNSPEC;
}

static __always_inline int tell_tunnel(struct __sk_buff *skb, int action)
{
	struct whole_tunnel_key key ALIGNED = {};
	__u32 one = 1;
	struct told_tunnel *told = told_tunnels.lookup(&one);

	if (!told)
		return TC_ACT_UNSPEC;
	told->family = 0;
	if (!bpf_skb_get_tunnel_key(skb, (void *)&key, sizeof(key), 0)) {
		told->family = 4;
		told->address[0] = BE32(key.local[0]);
	} else if (!bpf_skb_get_tunnel_key(skb, (void *)&key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		told->family = 6;
		__builtin_memcpy(told->address, key.local, 16);
	}
	told->number = key.number;
	return action;
}

int from_pod_told(struct __sk_buff *skb)
{
	return tell_tunnel(skb, from_pod(skb));
}

int from_host_told(struct __sk_buff *skb)
{
	return tell_tunnel(skb, from_host(skb));
}
