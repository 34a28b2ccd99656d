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

static __always_inline __u32 rank_of(const struct policy_value *value, __u32 specificity)
{
	return (value->flags & POLICY_DENY ? 1u << 16 : 0) | (__u32)value->precedence << 8 | specificity;
}

/*
 * Ask for one key in the scratch map, and return the better of the answer and `best`. Keys and rank stand in the map,
 * so that the verifier has no more to follow from one question to the next than whether there was an answer (6.1: a
 * million steps, or a fifth).
 */
static __always_inline struct policy_value *better(void *table, void *key, __u32 specificity, struct policy_value *best,
						   struct policy_key *entry, struct scratch *news)
{
	struct policy_value *value = bpf_map_lookup_elem(table, key);
	__u32 rank;

	if (!value)
		return best;
	rank = rank_of(value, specificity) + 1; /* even the least is more than none */
	if (rank <= READ_ONCE(news->rank))
		return best;
	WRITE_ONCE(news->rank, rank);
	if (entry)
		news->verdict.entry = *entry;
	news->verdict.by_range = !entry;
	return value;
}

/* User space lets no two blocks of one peer overlap, so the longest match is the only one. */
static __always_inline struct policy_value *best_range(void *table, const struct policy_key *wanted,
						       struct scratch *news)
{
	struct range_key *key = &news->wanted_range;
	struct policy_value *best;

	key->prefix_length = 64;
	key->identity = wanted->identity;
	key->protocol = wanted->protocol;
	key->direction = wanted->direction;
	key->port_be = wanted->port_be;
	best = better(table, key, 5, 0, 0, news);
	key->identity = 0;
	return better(table, key, 4, best, 0, news);
}

/* `key` names peer, port and protocol in full; it comes back changed. */
static __always_inline struct policy_value *best_entry(void *table, struct policy_key *key, struct policy_value *best,
						       struct scratch *news)
{
	__u32 peer = READ_ONCE(key->identity);

	/* port 0 as a key means any port, so it is no more specific than that */
	best = better(table, key, key->port_be ? 7 : 3, best, key, news);
	key->identity = 0;
	best = better(table, key, key->port_be ? 6 : 2, best, key, news);
	key->port_be = 0;
	best = better(table, key, 2, best, key, news);
	key->identity = peer;
	best = better(table, key, 3, best, key, news);
	key->protocol = 0;
	best = better(table, key, 1, best, key, news);
	key->identity = 0;
	return better(table, key, 0, best, key, news);
}

/* Judge one direction at the endpoint that `judge` names. Fills the verdict's reason, provenance, endpoint, direction.
 */
static __always_inline void judge_policy(const struct __sk_buff *skb, const struct endpoint_state *state,
					 __u32 direction, struct scratch *news)
{
	struct policy_key *wanted = &news->wanted[direction];
	__u32 *endpoint = &news->judge[direction];
	struct verdict *v = &news->verdict;
	struct policy_value *entry = 0;
	void *table;

	v->endpoint = *endpoint;
	v->direction = direction;
	v->provenance = direction == EGRESS ? state->egress_default_deny : state->ingress_default_deny;
	v->reason = DROP_POLICY;
	WRITE_ONCE(news->rank, 0);
	table = policy_ranges.lookup(endpoint);
	if (table)
		entry = best_range(table, wanted, news);
	table = policies.lookup(endpoint);
	if (table)
		entry = best_entry(table, wanted, entry, news);
	if (!entry)
		return;
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
