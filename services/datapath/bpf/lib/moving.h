/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * While a table of records moves to another shape, programs of two versions serve the node, one device with these and
 * another with those, and the former ones know the former table alone. So programs that know both go between: what the
 * former table says counts, comes over with the packet that asks for it, and goes back when the packet has been dealt
 * with. When no device has a former program, what nobody asked for is copied and the former table is over; then
 * the programs for good take the place of these. Only these are compiled with FORMER_*: bytes of a former value.
 */
#pragma once
#include "packet.h"

#if defined(FORMER_CONNTRACK) || defined(FORMER_FRAGMENTS) || defined(FORMER_MASQUERADE)
#define FORMER(key_type, value_type, name) \
	BPF_TABLE_PINNED7("lru_hash", key_type, value_type, former_##name, 1, PIN_DIRECTORY "/fairlead_" #name, 0)
#define SHORTER(one, other) (sizeof(one) < sizeof(other) ? sizeof(one) : sizeof(other))

struct move {
	__u32 over; /* from now on the former tables say nothing any more */
};
MAP("array", __u32, struct move, move);
struct moved_row {
	struct flow_key key; /* of the packet at hand: the stack has no room for it until the end */
	__u64 word[56];
};
MAP("percpu_array", __u32, struct moved_row, moved_row);

static __always_inline bool is_moving(void)
{
	__u32 zero = 0;
	struct move *move_now = move.lookup(&zero);

	return move_now && !READ_ONCE(move_now->over);
}

static __always_inline struct moved_row *row_at_hand(void)
{
	__u32 zero = 0;

	return moved_row.lookup(&zero);
}

/* Return room for a value of either shape, all zero: what a longer one has more means as before then. */
static __always_inline void *blank_row(void)
{
	struct moved_row *row = row_at_hand();

	if (!row)
		return 0;
	__builtin_memset(row->word, 0, sizeof(row->word));
	return row->word;
}
#else
static __always_inline bool is_moving(void)
{
	return false;
}
#endif

#ifdef FORMER_CONNTRACK
struct former_flow {
	__u8 bytes[FORMER_CONNTRACK];
};
FORMER(struct flow_key, struct former_flow, conntrack);

static __always_inline void bring_flow(struct flow_key *key)
{
	struct former_flow *former = is_moving() ? former_conntrack.lookup(key) : 0;
	struct flow *flow = former ? conntrack.lookup(key) : 0;
	void *row;

	if (flow)
		__builtin_memcpy(flow, former, SHORTER(*flow, *former));
	if (!former || flow)
		return;
	row = blank_row();
	if (!row)
		return;
	__builtin_memcpy(row, former, SHORTER(*flow, *former));
	conntrack.insert(key, row);
}

/* Begin with a packet of this flow; `share_flow` ends with it. */
static __always_inline void take_flow(struct flow_key *key)
{
	struct moved_row *at_hand = row_at_hand();

	if (at_hand)
		at_hand->key = *key;
	bring_flow(key);
}

static __always_inline void share_flow(void)
{
	struct moved_row *at_hand = is_moving() ? row_at_hand() : 0;
	struct flow *flow = at_hand ? conntrack.lookup(&at_hand->key) : 0;
	struct former_flow *former = flow ? former_conntrack.lookup(&at_hand->key) : 0;
	void *row;

	if (former)
		__builtin_memcpy(former, flow, SHORTER(*flow, *former));
	if (!flow || former)
		return;
	row = blank_row();
	if (!row)
		return;
	__builtin_memcpy(row, flow, SHORTER(*flow, *former));
	former_conntrack.insert(&at_hand->key, row);
}
#else
static __always_inline void bring_flow(struct flow_key *key)
{
}

static __always_inline void take_flow(struct flow_key *key)
{
}

static __always_inline void share_flow(void)
{
}
#endif

#ifdef FORMER_FRAGMENTS
struct former_fragment {
	__u8 bytes[FORMER_FRAGMENTS];
};
FORMER(struct fragment_key, struct former_fragment, fragments);

static __always_inline void bring_fragment(struct fragment_key *key)
{
	struct former_fragment *former = is_moving() ? former_fragments.lookup(key) : 0;
	void *row = former ? blank_row() : 0;

	if (!row)
		return;
	__builtin_memcpy(row, former, SHORTER(struct fragment, *former));
	fragments.update(key, row);
}

static __always_inline void share_fragment(struct fragment_key *key, const struct fragment *ports)
{
	void *row = is_moving() ? blank_row() : 0;

	if (!row)
		return;
	__builtin_memcpy(row, ports, SHORTER(*ports, struct former_fragment));
	former_fragments.update(key, row);
}
#else
static __always_inline void bring_fragment(struct fragment_key *key)
{
}

static __always_inline void share_fragment(struct fragment_key *key, const struct fragment *ports)
{
}
#endif
