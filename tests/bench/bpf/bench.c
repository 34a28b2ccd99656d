/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What the benchmark puts around and beside the programs under test. `restore` makes every repeat of a test-run meet
 * the packet as it was, or a varied one, and goes on to the program under test; its cost is subtracted by running it
 * before `nothing`. `limit` is the least that a same-node datapath can do: two addresses and a redirect.
 */
#include <linux/bpf_common.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define VARY_NOTHING	 0
#define VARY_PORT	 1 /* the source port: `count` flows */
#define VARY_PORTS	 2 /* source and destination port: `count` flows, more than a flow table holds */
#define VARY_DESTINATION 3 /* the last 4 bytes of the destination address: `count` peers */
#define WORDS		 10

#define SWAP16(x) ((__u16)__builtin_bswap16(x))
#define SWAP32(x) ((__u32)__builtin_bswap32(x))

struct plan {
	__u32 vary;
	__u32 count;
	__u32 next;
	__u32 target;
	__u32 l4_offset; /* 34 or 54 */
	__u32 base;	 /* first port or address */
	__u64 packet[WORDS];
};
BPF_ARRAY(plans, struct plan, 1);
BPF_TABLE("prog", __u32, __u32, targets, 2);

static __always_inline void vary(struct plan *plan, __u8 *packet)
{
	__u32 number = plan->next, base = plan->base;

	plan->next = number + 1 < plan->count ? number + 1 : 0;
	if (plan->vary == VARY_DESTINATION) {
		*(__u32 *)(packet + (plan->l4_offset == 34 ? 30 : 50)) = SWAP32(base + number);
		return;
	}
	packet += plan->l4_offset == 34 ? 34 : 54;
	if (plan->vary == VARY_PORTS) {
		*(__u16 *)(packet + 2) = SWAP16(80 + (number >> 15));
		number &= 0x7fff;
	}
	*(__u16 *)packet = SWAP16(base + number);
}

int restore(struct __sk_buff *skb)
{
	__u64 *packet = (void *)(long)skb->data;
	struct plan *plan;
	__u32 zero = 0;

	plan = plans.lookup(&zero);
	if (!plan || (void *)(packet + WORDS) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		packet[i] = plan->packet[i];
	if (plan->vary)
		vary(plan, (__u8 *)packet);
	targets.call(skb, plan->target);
	return TC_ACT_SHOT;
}

int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

struct hop {
	__u32 ifindex;
	__u8 macs[12];
};
BPF_HASH(hops, __u32, struct hop, 16);

int limit(struct __sk_buff *skb)
{
	__u32 *packet = (void *)(long)skb->data, ifindex = skb->ifindex;
	struct hop *hop;

	hop = hops.lookup(&ifindex);
	if (!hop || (void *)(packet + 4) > (void *)(long)skb->data_end)
		return TC_ACT_OK;
	packet[0] = *(__u32 *)hop->macs;
	packet[1] = *(__u32 *)(hop->macs + 4);
	packet[2] = *(__u32 *)(hop->macs + 8);
	return bpf_redirect_peer(hop->ifindex, 0);
}
