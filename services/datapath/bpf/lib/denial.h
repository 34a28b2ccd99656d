/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Denied at a glance. What policy denied is remembered for 10 ms under the epochs of that moment, for packets that
 * belong to no flow: whoever floods costs little, a change of policy counts with the next packet, and an entry that a
 * person puts into a policy map counts 10 ms later at most. A slot is one of an array, so a flood of many flows only
 * forgets other denials.
 */
#pragma once
#include "conntrack.h"
#include "policy.h"

/* Both ends as the packet has them. */
struct parties {
	__u32 source_endpoint;
	__u32 destination_endpoint;
	struct endpoint_state *source;
	struct endpoint_state *destination;
	__u32 epoch;
	__u32 far_flags; /* FLOW_STACK and FLOW_HOST, if the far end is there */
};

static __always_inline struct denial *denial_slot(const struct flow_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 mixed = words[0] ^ words[2] ^ words[1] * 0x9e3779b97f4a7c15ull ^ words[3] * 0xc2b2ae3d27d4eb4full;
	__u32 index;

	mixed = (mixed ^ mixed >> 29 ^ words[4]) * 0xbf58476d1ce4e5b9ull;
	index = mixed >> (64 - DENIAL_BITS);
	return denials.lookup(&index);
}

static __always_inline bool same_flow(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/* Count the packet at the entry that denies it; false when the entry is there no more. */
static __always_inline bool count_denied(const struct __sk_buff *skb, const struct denial *seen, struct verdict *v)
{
	__u32 endpoint = seen->endpoint;
	struct policy_key key = seen->entry;
	struct policy_value *entry = 0;
	void *table = policies.lookup(&endpoint);

	if (table)
		entry = bpf_map_lookup_elem(table, &key);
	if (!entry || !(entry->flags & POLICY_DENY))
		return false;
	__sync_fetch_and_add(&entry->packets, 1);
	__sync_fetch_and_add(&entry->bytes, skb->len);
	v->provenance = entry->provenance;
	return true;
}

/* Tell whether the packet's like was denied just now, and fill the verdict, which knows already whether the packet is
 * taken for an answer. Only for packets without a flow. */
static __always_inline bool denied_just_now(const struct __sk_buff *skb, const struct packet *p,
					    const struct flow_key *key, bool from_low, int origin,
					    const struct settings *config, struct verdict *v)
{
	struct denial *seen = denial_slot(key);
	struct endpoint_state *low, *high;

	if (!seen || bpf_jiffies64() >= seen->until || !same_flow(&seen->key, key) || seen->from_low != from_low ||
	    p->icmp_error)
		return false;
	if (seen->from_ifindex != skb->ifindex || seen->ingress_ifindex != skb->ingress_ifindex ||
	    seen->policy_port_be != p->policy_port_be || seen->origin != origin || seen->is_reply != v->is_reply)
		return false;
	/* who the source is a tunnel's packet says itself */
	if (origin == ORIGIN_OVERLAY && seen->source_identity != p->tunnel_identity)
		return false;
	low = state_of(seen->low_endpoint);
	high = state_of(seen->high_endpoint);
	if (!low || !high || seen->epoch != config->address_epoch + low->epoch + high->epoch)
		return false;
	v->source_identity = seen->source_identity;
	v->destination_identity = seen->destination_identity;
	v->provenance = seen->provenance;
	v->endpoint = seen->endpoint;
	v->reason = seen->reason;
	v->direction = seen->direction;
	return !seen->by_entry || count_denied(skb, seen, v);
}

/* Remember that policy denied the packet, which belongs to no flow. */
static __always_inline void remember_denial(const struct __sk_buff *skb, const struct packet *p,
					    const struct flow_key *key, bool from_low, int origin,
					    const struct settings *config, const struct parties *who,
					    const struct verdict *v)
{
	struct denial *slot;

	if (p->icmp_error || v->by_range || (v->reason != DROP_POLICY && v->reason != DROP_POLICY_DENY))
		return;
	slot = denial_slot(key);
	if (!slot)
		return;
	slot->key = *key;
	slot->until = bpf_jiffies64() + config->second / 100 + 1;
	slot->from_ifindex = skb->ifindex;
	slot->ingress_ifindex = skb->ingress_ifindex;
	slot->epoch = who->epoch;
	slot->low_endpoint = from_low ? who->source_endpoint : who->destination_endpoint;
	slot->high_endpoint = from_low ? who->destination_endpoint : who->source_endpoint;
	slot->source_identity = v->source_identity;
	slot->destination_identity = v->destination_identity;
	slot->provenance = v->provenance;
	slot->endpoint = v->endpoint;
	slot->policy_port_be = p->policy_port_be;
	slot->entry = v->entry;
	slot->reason = v->reason;
	slot->direction = v->direction;
	slot->from_low = from_low;
	slot->origin = origin;
	slot->is_reply = v->is_reply;
	slot->by_entry = v->reason == DROP_POLICY_DENY;
}
