/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The policy look-up. All six keys that may cover a packet are examined, and the blocks of ports where the endpoint has
 * any; of the entries found wins, in this order:
 *  1. a deny over an allow;
 *  2. the higher precedence;
 *  3. the more specific in layer 4: protocol and port, protocol and range of ports, protocol, neither;
 *  4. the one that names the peer over the one for any peer.
 */
#pragma once
#include "events.h"

struct candidate {
	struct policy_value *value;
	struct policy_key key;
	__u32 rank;
	__u32 by_range;
};

static __always_inline __u32 rank_of(const struct policy_value *value, __u32 specificity)
{
	return (value->flags & POLICY_DENY ? 1u << 16 : 0) | (__u32)value->precedence << 8 | specificity;
}

static __always_inline void consider(void *table, struct policy_key *key, __u32 specificity, struct candidate *best)
{
	struct policy_value *value = bpf_map_lookup_elem(table, key);
	__u32 rank;

	if (!value)
		return;
	rank = rank_of(value, specificity);
	if (!best->value || rank > best->rank) {
		best->value = value;
		best->key = *key;
		best->rank = rank;
		best->by_range = 0;
	}
}

static __always_inline void consider_range(void *table, struct range_key *key, __u32 specificity,
					   struct candidate *best)
{
	struct policy_value *value = bpf_map_lookup_elem(table, key);
	__u32 rank;

	if (!value)
		return;
	rank = rank_of(value, specificity);
	if (!best->value || rank > best->rank) {
		best->value = value;
		best->rank = rank;
		best->by_range = 1;
	}
}

/* User space lets no two blocks of one peer overlap, so the longest match is the only one. */
static __always_inline void best_range(void *table, const struct policy_key *wanted, struct candidate *best)
{
	struct range_key key = {.prefix_length = 64, .identity = wanted->identity};

	key.protocol = wanted->protocol;
	key.direction = wanted->direction;
	key.port_be = wanted->port_be;
	consider_range(table, &key, 5, best);
	key.identity = 0;
	consider_range(table, &key, 4, best);
}

/* `key` names peer, port and protocol in full; it comes back changed. */
static __always_inline void best_entry(void *table, struct policy_key *key, struct candidate *best)
{
	__u32 peer = key->identity;
	__u16 port_be = key->port_be;
	__u8 protocol = key->protocol;

	/* port 0 as a key means any port, so it is no more specific than that */
	consider(table, key, port_be ? 7 : 3, best);
	key->identity = 0;
	consider(table, key, port_be ? 6 : 2, best);
	key->port_be = 0;
	consider(table, key, 2, best);
	key->identity = peer;
	consider(table, key, 3, best);
	key->protocol = 0;
	consider(table, key, 1, best);
	key->identity = 0;
	consider(table, key, 0, best);
}

/* Judge one direction at one endpoint. Fills the verdict's reason, provenance, endpoint and direction. */
static __always_inline void judge_policy(const struct __sk_buff *skb, __u32 endpoint,
					 const struct endpoint_state *state, struct policy_key *key, struct verdict *v)
{
	struct candidate best = {};
	struct policy_value *entry;
	void *table;

	v->endpoint = endpoint;
	v->direction = key->direction;
	v->provenance = key->direction == EGRESS ? state->egress_default_deny : state->ingress_default_deny;
	v->reason = DROP_POLICY;
	table = policy_ranges.lookup(&endpoint);
	if (table)
		best_range(table, key, &best);
	table = policies.lookup(&endpoint);
	if (table)
		best_entry(table, key, &best);
	entry = best.value;
	if (!entry)
		return;
	v->entry = best.key;
	v->by_range = best.by_range;
	__sync_fetch_and_add(&entry->packets, 1);
	__sync_fetch_and_add(&entry->bytes, skb->len);
	v->provenance = entry->provenance;
	if (entry->flags & POLICY_DENY)
		v->reason = DROP_POLICY_DENY;
	else if (entry->proxy_port_be)
		v->reason = DROP_NO_PROXY;
	else
		v->reason = 0;
}
