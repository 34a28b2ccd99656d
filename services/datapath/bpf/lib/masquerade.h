/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Masquerade: the world sees this node instead of its pods. A flow that a pod begins towards the world has the node's
 * address and a port of a range of its own outside; inside, and for policies, it is the pod's as ever. The flow knows
 * its outer end, so what leaves needs no second look-up; the table `masquerade` leads what comes back to the pod.
 *
 * The row in the table is made before the flow speaks of it, and looked after whenever the flow asks for its way anew
 * (10 ms): a row that was forgotten is made again. A row whose flow is gone, dead or elsewhere is anybody's.
 */
#pragma once
#include "related.h"
#include "rewrite.h"

#define PORT_TRIES	    32
#define IDENTITY_WORLD_IPV4 9
#define IDENTITY_WORLD_IPV6 10
#define FIRST_CIDR_IDENTITY (1u << 24)

/* What the world sees of a masqueraded flow, and whose it is. */
struct masquerade_key {
	struct address remote;
	struct address own;
	__u16 remote_port_be;
	__u16 own_port_be;
	__u8 protocol;
	__u8 pad[3];
};
struct masquerade {
	__u64 last_seen; /* jiffies */
	struct address pod;
	__u16 pod_port_be;
	__u8 pad[6];
};
RECORDS(struct masquerade_key, struct masquerade, masquerade, MASQUERADE_BESIDE);

/* This node's address as which flows leave by a device. */
struct way_out {
	__u32 ifindex;
	__u32 family; /* 4 or 6 */
};
MAP("hash", struct way_out, struct address, masquerade_addresses);

/* Destinations that see the pods themselves. */
struct exclusion {
	__u32 reserved;
};
MAP("lpm_trie", struct prefix_key, struct exclusion, masquerade_exclusions);

/* A row in the making, too large for the stack. */
struct masquerade_scratch {
	struct masquerade_key key;
	struct masquerade row;
};
MAP("percpu_array", __u32, struct masquerade_scratch, masquerade_scratch);

#ifdef FORMER_MASQUERADE
struct former_masquerade {
	__u8 bytes[FORMER_MASQUERADE];
};
FORMER(struct masquerade_key, struct former_masquerade, masquerade);

static __always_inline void bring_outer_end(struct masquerade_key *key)
{
	struct former_masquerade *former = is_moving() ? former_masquerade.lookup(key) : 0;
	void *row = former ? blank_row() : 0;

	if (!row)
		return;
	__builtin_memcpy(row, former, SHORTER(struct masquerade, *former));
	masquerade.update(key, row);
}

static __always_inline void share_outer_end(struct masquerade_key *key, const struct masquerade *of)
{
	void *row = is_moving() ? blank_row() : 0;

	if (!row)
		return;
	__builtin_memcpy(row, of, SHORTER(*of, struct former_masquerade));
	former_masquerade.update(key, row);
}
#else
static __always_inline void bring_outer_end(struct masquerade_key *key)
{
}

static __always_inline void share_outer_end(struct masquerade_key *key, const struct masquerade *of)
{
}
#endif

static __always_inline bool masquerades(const struct settings *config, __u8 family)
{
	return config->features & (family == 4 ? FEATURE_MASQUERADE_IPV4 : FEATURE_MASQUERADE_IPV6);
}

static __always_inline bool in_port_range(const struct settings *config, __u16 port)
{
	return port >= config->nat_first_port && port <= config->nat_last_port;
}

/* Tell whether a flow that a pod begins towards the address goes out as the node's. */
static __always_inline bool shall_masquerade(const struct packet *p, __u32 identity, const struct settings *config)
{
	struct prefix_key key;

	if (!masquerades(config, p->family))
		return false;
	if (identity != IDENTITY_WORLD && identity != IDENTITY_WORLD_IPV4 && identity != IDENTITY_WORLD_IPV6 &&
	    identity < FIRST_CIDR_IDENTITY)
		return false;
	key.prefix_length = 32 + 128;
	key.family = p->family;
	__builtin_memcpy(key.address, &p->destination, 16);
	return !masquerade_exclusions.lookup(&key);
}

/* Tell whether the transport protocol can be masqueraded: it has ports or an identifier, and a checksum that we know.
 */
static __always_inline bool can_masquerade(const struct packet *p)
{
	if (is_icmp(p))
		return p->icmp_error || p->sport_be != 0xffff;
	return p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == PROTOCOL_SCTP;
}

/* Tell whether the row still leads to a flow that lives and has this port. */
static __always_inline bool is_taken(const struct masquerade_key *key, const struct masquerade *row,
				     const struct settings *config, struct flow_key *inner)
{
	struct flow *flow;

	make_flow_key(inner, &row->pod, &key->remote, row->pod_port_be, key->remote_port_be);
	inner->protocol = key->protocol;
	flow = conntrack.lookup(inner);
	return flow && flow->nat_port_be == key->own_port_be && flow_alive(flow, config, key->protocol);
}

/* Make the row be there for this pod's end. */
static __always_inline bool claim_port(struct masquerade_scratch *wanted, const struct settings *config,
				       struct flow_key *inner)
{
	struct masquerade *row;

	bring_outer_end(&wanted->key);
	row = masquerade.lookup(&wanted->key);
	if (row) {
		if (same_address(&row->pod, &wanted->row.pod) && row->pod_port_be == wanted->row.pod_port_be) {
			row->last_seen = wanted->row.last_seen;
			share_outer_end(&wanted->key, &wanted->row);
			return true;
		}
		/* while tables move, a port's flow may stand in the former one alone */
		if (is_moving() || is_taken(&wanted->key, row, config, inner))
			return false;
		masquerade.delete(&wanted->key);
	}
	if (masquerade.insert(&wanted->key, &wanted->row))
		return false;
	share_outer_end(&wanted->key, &wanted->row);
	return true;
}

static __always_inline __u32 port_hash(const struct packet *p)
{
	__u64 mixed = p->source.word[1] ^ p->source.word[0] ^ p->destination.word[1] * 0x9e3779b97f4a7c15ull;

	mixed ^= (__u64)p->sport_be << 16 | p->dport_be;
	mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9ull;
	return mixed >> 32;
}

/*
 * Have a port outside for the flow: the one that it has, else the pod's own, else one that is free. Returns 0 or a
 * reason. Which ports are tried depends on the flow alone, so that two processors find the same for one flow. `inner`:
 * where the flow that holds a port is looked for.
 */
static __always_inline int map_flow(const struct packet *p, const struct settings *config, struct flow *flow,
				    __u32 ifindex, struct flow_key *inner)
{
	struct way_out way = {.ifindex = ifindex, .family = p->family};
	__u32 zero = 0, hash = port_hash(p), step, range, port;
	struct masquerade_scratch *wanted = masquerade_scratch.lookup(&zero);
	struct address *own = flow->nat_port_be ? &flow->nat_address : masquerade_addresses.lookup(&way);

	range = (__u32)config->nat_last_port - config->nat_first_port + 1;
	if (!wanted || !own || !range || range > 0xffff)
		return DROP_NO_MAPPING;
	wanted->key.remote = p->destination;
	wanted->key.own = *own;
	wanted->key.remote_port_be = p->dport_be;
	wanted->key.protocol = p->protocol;
	wanted->row.last_seen = bpf_jiffies64();
	wanted->row.pod = p->source;
	wanted->row.pod_port_be = p->sport_be;
	port = BE16(flow->nat_port_be ? flow->nat_port_be : p->sport_be);
	step = range > PORT_TRIES ? (hash >> 16 & 0xff) | 1 : 1;
#pragma clang loop unroll(disable)
	for (int i = 0; i < PORT_TRIES + 1; i++) {
		wanted->key.own_port_be = BE16(port);
		if (in_port_range(config, port) && claim_port(wanted, config, inner)) {
			flow->nat_address = wanted->key.own;
			flow->nat_port_be = wanted->key.own_port_be;
			return 0;
		}
		port = config->nat_first_port + (hash + i * step) % range;
	}
	return DROP_NO_MAPPING;
}

/* Give a packet of a masqueraded flow its outer source. Returns 0 or a reason. */
static __always_inline int masquerade_packet(struct __sk_buff *skb, const struct packet *p, const struct flow *flow)
{
	struct end inner = {.address = p->source, .port_be = p->sport_be};
	struct end outer = {.address = flow->nat_address, .port_be = flow->nat_port_be};
	struct change change = {.from = &inner, .to = &outer, .source = true};

	if (!outer.port_be)
		return DROP_NO_MAPPING;
	return rewrite(skb, p, &change);
}

/* Have a pod's error about a packet of a masqueraded flow speak of the outer end. Returns 0 or a reason. */
static __always_inline int masquerade_error(struct __sk_buff *skb, const struct packet *p, const struct packet *quoted,
					    const struct flow *flow)
{
	struct end inner = {.address = p->source, .port_be = quoted->dport_be};
	struct end outer = {.address = flow->nat_address, .port_be = flow->nat_port_be};
	struct change change = {.from = &inner, .to = &outer, .source = true};

	if (!outer.port_be)
		return DROP_NO_MAPPING;
	return rewrite_error(skb, p, quoted, &change);
}

/* Find whom a packet of the network is for, if its destination is a flow's outer end. */
static __always_inline struct masquerade *masqueraded(const struct address *remote, const struct address *own,
						      __u16 remote_port_be, __u16 own_port_be, __u8 protocol)
{
	struct masquerade_key key = {.remote = *remote, .own = *own, .protocol = protocol};
	struct masquerade *row;
	__u64 now = bpf_jiffies64();

	key.remote_port_be = remote_port_be;
	key.own_port_be = own_port_be;
	bring_outer_end(&key);
	row = masquerade.lookup(&key);
	if (row && row->last_seen != now)
		row->last_seen = now;
	return row;
}

/* Lead an error about a masqueraded packet to the pod. Returns 0 or a reason. */
static __always_inline int unmasquerade_error(struct __sk_buff *skb, struct packet *p, const struct settings *config)
{
	struct packet quoted = {};
	struct end outer = {.address = p->destination}, inner = {};
	struct change change = {.from = &outer, .to = &inner};
	struct masquerade *row;

	if (!read_quoted(skb, p, &quoted) || !same_address(&quoted.source, &p->destination) ||
	    !in_port_range(config, BE16(quoted.sport_be)))
		return 0;
	row = masqueraded(&quoted.destination, &quoted.source, quoted.dport_be, quoted.sport_be, quoted.protocol);
	if (!row)
		return 0;
	outer.port_be = quoted.sport_be;
	inner.address = row->pod;
	inner.port_be = row->pod_port_be;
	p->destination = inner.address;
	p->outer_port_be = outer.port_be;
	return rewrite_error(skb, p, &quoted, &change);
}

/* Lead what the world answers to the pod: packet and `p` have the inner end then. Returns 0 or a reason. */
static __always_inline int unmasquerade(struct __sk_buff *skb, struct packet *p, const struct settings *config)
{
	struct end outer = {.address = p->destination, .port_be = p->dport_be}, inner;
	struct change change = {.from = &outer, .to = &inner};
	struct masquerade *row;
	int reason = 0;

	if (p->icmp_error)
		return unmasquerade_error(skb, p, config);
	if (!in_port_range(config, BE16(p->dport_be)))
		return 0;
	row = masqueraded(&p->source, &p->destination, p->sport_be, p->dport_be, p->protocol);
	if (!row)
		return 0;
	if (p->fragment == FRAGMENT_FIRST)
		reason = remember_fragment(p);
	inner.address = row->pod;
	inner.port_be = row->pod_port_be;
	p->outer_port_be = p->dport_be;
	p->destination = inner.address;
	p->dport_be = inner.port_be;
	return reason ? reason : rewrite(skb, p, &change);
}
