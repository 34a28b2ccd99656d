/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Packets that cannot go on, and whose senders must hear of it: the time to live ran out, or the packet is larger than
 * the way. This node's own stack answers, since it knows addresses, quotes and limits the rate: it gets the packet in a
 * shape that it can do nothing with but refuse.
 */
#pragma once
#include <linux/ip.h>
#include "packet.h"

/* Return how long the largest piece of the packet is that will travel, without the Ethernet header. */
static __always_inline __u32 length_on_wire(struct __sk_buff *skb, const struct packet *p)
{
	__u32 headers = p->l4_offset - ETH_HLEN;
	__u8 offset = 0;

	if (!skb->gso_size)
		return skb->len - ETH_HLEN;
	if (p->protocol != IPPROTO_TCP)
		return headers + 8 + skb->gso_size;
	if (bpf_skb_load_bytes(skb, p->l4_offset + 12, &offset, 1))
		return 0;
	return headers + (offset >> 4) * 4 + skb->gso_size;
}

/* Tell whether the packet is larger than the way; cheap for whatever surely is not. */
static __always_inline bool too_big(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	return skb->len - ETH_HLEN > mtu && length_on_wire(skb, p) > mtu;
}

/* Nothing is fragmented on the way: have the stack refuse what its sender did not forbid it to cut, too. */
static __always_inline void forbid_fragments(struct __sk_buff *skb)
{
	struct iphdr *ip = start_of(skb) + ETH_HLEN;
	__u32 sum;

	if ((void *)(ip + 1) > end_of(skb) || ip->frag_off & BE16(0x4000))
		return;
	ip->frag_off |= BE16(0x4000);
	sum = (__u32)ip->check + (__u16)~BE16(0x4000);
	ip->check = (__u16)(sum + (sum >> 16));
}

/*
 * Have this node's stack tell the sender of a packet that was dropped for `reason`. Returns the action. The frame comes
 * in by fairlead_host, as if it had been sent to its MAC.
 */
static __always_inline int tell_sender(struct __sk_buff *skb, const struct packet *p, __u32 reason,
				       const struct settings *config)
{
	__u8 *mac = start_of(skb);

	if (reason != DROP_TTL_EXCEEDED && reason != DROP_TOO_BIG)
		return TC_ACT_SHOT;
	if ((void *)mac + ETH_HLEN > end_of(skb))
		return TC_ACT_SHOT;
	write_gateway_mac(mac);
	if (p->family == 4 && reason == DROP_TOO_BIG)
		forbid_fragments(skb);
	return bpf_redirect(config->host_ifindex, BPF_F_INGRESS);
}
