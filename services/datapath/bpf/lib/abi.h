/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Structs and maps shared with user space; `kernel/abi.py` holds the twins, and the loader compares sizes.
 * Byte order is in the name: `_be` is network order, all else is the host's. Padding is explicit and zero.
 * Maps are made and pinned by user space (it decides their sizes); programs only open the pins.
 */
#pragma once
#include <linux/bpf_common.h>

#define MAP(type, key_type, value_type, name) \
	BPF_TABLE_PINNED7(type, key_type, value_type, name, 1, PIN_DIRECTORY "/fairlead_" #name, 0)

/* What programs themselves write and must not forget. While such a table moves to another shape, it stands beside. */
#define RECORDS(key_type, value_type, name, beside) \
	BPF_TABLE_PINNED7("lru_hash", key_type, value_type, name, 1, PIN_DIRECTORY "/fairlead_" #name beside, 0)
#ifndef CONNTRACK_BESIDE
#define CONNTRACK_BESIDE
#endif
#ifndef FRAGMENTS_BESIDE
#define FRAGMENTS_BESIDE
#endif
#ifndef MASQUERADE_BESIDE
#define MASQUERADE_BESIDE
#endif

/* 02:66:6c:00:00:01, locally administered: the host side of every veth pair, and fairlead_host. */
#define GATEWAY_MAC_0 0x02
#define GATEWAY_MAC_1 0x66
#define GATEWAY_MAC_2 0x6c

/* One address of either family; IPv4 is v4-mapped (::ffff:a.b.c.d), so that both families share every table. */
struct address {
	__u64 word[2];
};

/* Address to endpoint number: the local endpoints and nothing else. */
struct endpoint_of {
	__u32 endpoint;
};
MAP("hash", struct address, struct endpoint_of, endpoints);

#define ENDPOINT_PRESENT       1
#define ENDPOINT_HELD	       2
#define ENDPOINT_AUDIT_INGRESS 4 /* what this direction's policy denies passes, and is told */
#define ENDPOINT_AUDIT_EGRESS  8

/* By endpoint number; number 0 is nobody and stays zero, so its epoch can be added without asking. */
struct endpoint_state {
	__u32 epoch; /* grows with every change of the endpoint or its policy */
	__u32 ifindex;
	__u32 identity;
	__u32 flags;
	__u32 ingress_default_deny; /* provenance of a drop that no entry caused */
	__u32 egress_default_deny;
	__u8 pod_mac[6]; /* these 12 bytes are the Ethernet header of a packet to the pod */
	__u8 host_mac[6];
	__u32 reserved;
};
MAP("array", __u32, struct endpoint_state, endpoint_state);

/*
 * Endpoint number (0: the whole node) to the end of its break-glass: until then what its policies deny passes, and is
 * told. A row apart, which the programs and a person's command alone look at: no service has to live for it to end.
 */
struct break_glass {
	__u64 until_ns; /* CLOCK_MONOTONIC */
};
MAP("hash", __u32, struct break_glass, break_glass);

#define INGRESS 0
#define EGRESS	1

/* The documented policy map; the tables themselves are pinned as cilium_policy_<endpoint>. */
struct policy_key {
	__u32 identity; /* 0: any */
	__u16 port_be;	/* 0: any */
	__u8 protocol;	/* 0: any */
	__u8 direction;
};
#define POLICY_DENY 1
struct policy_value {
	__u16 proxy_port_be;
	__u8 flags;
	__u8 precedence;
	__u32 provenance;
	__u64 packets;
	__u64 bytes;
};
MAP("array_of_maps", __u32, __u32, policies);

/* Blocks of ports; the tables have policy values, and an endpoint without ranges has none. */
struct range_key {
	__u32 prefix_length; /* bits after this word: 48, and those of the port that count */
	__u32 identity;
	__u8 protocol;
	__u8 direction;
	__u16 port_be;
};
MAP("array_of_maps", __u32, __u32, policy_ranges);

/* Address to identity of everybody who is not a local endpoint: exact first, then the longest prefix. */
struct identity_of {
	__u32 identity;
};
MAP("hash", struct address, struct identity_of, ipcache);
struct prefix_key {
	__u32 prefix_length; /* bits after this word: 32 of family, 96 of v4-mapping if IPv4, and the prefix's own */
	__u32 family;	     /* keeps ::/0 from matching IPv4 */
	__u8 address[16];
};
MAP("lpm_trie", struct prefix_key, struct identity_of, ipcache_prefix);

/* Prefix to the node that has it, by its address outside the tunnel: that node's pods, and its own addresses. */
struct tunnel_to {
	struct address node;
};
MAP("lpm_trie", struct prefix_key, struct tunnel_to, tunnels);

/*
 * This node itself as an endpoint, with state and policy map like any other; there while a host policy is in force.
 * Its addresses stand apart: a version that knows of no firewall must not take them for a pod's.
 */
#define HOST_ENDPOINT 65535
MAP("hash", struct address, struct endpoint_of, host_addresses);
struct failsafe_key {
	__u16 port_be;
	__u8 protocol;
	__u8 direction; /* seen from the node */
};
MAP("hash", struct failsafe_key, __u32, failsafe);

/* One entry per flow, whoever speaks: the smaller end comes first. */
struct flow_key {
	struct address low;
	struct address high;
	__u16 low_port_be;
	__u16 high_port_be;
	__u8 protocol;
	__u8 pad[3];
};
#define FLOW_LOW_BEGAN	  1 /* the low end is the initiator */
#define FLOW_ESTABLISHED  2 /* TCP: something other than a SYN was seen */
#define FLOW_LOW_CLOSING  4
#define FLOW_HIGH_CLOSING 8
#define FLOW_STACK	  16  /* the far end is behind this node's own stack */
#define FLOW_HOST	  32  /* the far end is this node itself */
#define FLOW_MASQUERADED  64  /* outside, the initiator is `nat_address`:`nat_port_be` */
#define FLOW_OVERLAY	  128 /* the far end is behind the tunnel to another node */
#define FLOW_FAR	  (FLOW_STACK | FLOW_HOST | FLOW_OVERLAY) /* where the far end is */
#define FLOW_AUDITED	  256  /* passes although a policy denies it, because the policy is only audited */
#define FLOW_TOLD	  512  /* its end was reported */
#define FLOW_BY_GLASS	  1024 /* passes by break-glass alone: judged with each packet, and told once */
struct flow {
	__u64 last_seen; /* jiffies */
	__u32 epoch;	 /* sum of the epochs under which it was allowed */
	__u16 low_endpoint;
	__u16 high_endpoint;
	__u32 flags;
	__u32 source_identity; /* of the initiator */
	__u32 destination_identity;
	__u32 hop_ifindex; /* the way off the node, trusted until `hop_until` */
	__u64 packets[2];  /* forward, reply */
	__u64 bytes[2];
	__u64 hop_until; /* jiffies */
	__u32 hop_family;
	__u32 hop_address[4];
	__u8 tcp_seen[2]; /* TCP flags seen so far: forward, reply */
	__u16 nat_port_be;
	struct address nat_address;
	__u64 reported; /* jiffies of the last report of the flow */
	__u32 hop_mtu;	/* of the way off the node; 0: the way is a tunnel, to the node `hop_address` */
	__u32 reserved;
};
RECORDS(struct flow_key, struct flow, conntrack, CONNTRACK_BESIDE);

/* What was denied just now, per CPU: a slot holds the last that fell on it, so that no good flow is evicted. */
#define DENIAL_BITS 10 /* of the number of a slot */
struct denial {
	struct flow_key key;
	__u64 until; /* jiffies */
	__u32 from_ifindex;
	__u32 ingress_ifindex;
	__u32 epoch;
	__u16 low_endpoint;
	__u16 high_endpoint;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 provenance;
	__u16 endpoint;
	__u16 policy_port_be;
	struct policy_key entry; /* the entry that denied, if `by_entry` */
	__u8 reason;
	__u8 direction;
	__u8 from_low;
	__u8 by_entry;
	__u8 origin;
	__u8 is_reply;
	__u8 pad[2];
};
MAP("percpu_array", __u32, struct denial, denials);

/* Later fragments carry no ports; the first one leaves them here. */
struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u32 protocol;
};
struct fragment {
	__u16 sport_be;
	__u16 dport_be;
	__u16 policy_port_be;
	__u16 seen_s; /* of seconds in jiffies, the low 16 bits */
};
RECORDS(struct fragment_key, struct fragment, fragments, FRAGMENTS_BESIDE);

/* What the programs must be told; one entry. */
struct settings {
	__u32 address_epoch; /* grows when an address changes its endpoint or identity */
	__u32 host_ifindex;  /* fairlead_host */
	__u32 second;	     /* all times in jiffies */
	__u32 syn_timeout;
	__u32 established_timeout;
	__u32 closing_timeout;
	__u32 other_timeout;
	__u32 events_per_second[4]; /* per CPU and kind of report */
	__u32 features;
	__u32 tunnel_ifindex;  /* 0: packets to other nodes travel as they are */
	__u32 report_interval; /* jiffies between reports of a flow that lasts; 0: none */
	__u16 nat_first_port;  /* source ports outside, host order */
	__u16 nat_last_port;
	__u32 mtu; /* of the narrowest uplink */
};
#define FEATURE_MASQUERADE_IPV4 1
#define FEATURE_MASQUERADE_IPV6 2
#define FEATURE_FIREWALL	4
MAP("array", __u32, struct settings, settings);

/* Which version of the maps stands, for the one program whose filter an older version would leave alone. */
struct abi_version {
	__u32 schema;
	__u32 oldest_reader;
	__u8 source[32];
};
MAP("array", __u32, struct abi_version, abi);

/* By reason * 2 + direction; reason 0 is forwarded. */
struct counter {
	__u64 packets;
	__u64 bytes;
};
MAP("percpu_array", __u32, struct counter, metrics);

#define EVENT_DROP     1
#define EVENT_NEW_FLOW 2
#define EVENT_CLOSED   3 /* of a flow: both ends said FIN, or one RST */
#define EVENT_AUDIT    4 /* passes although a policy denies it */
#define EVENT_LASTING  5 /* a flow that lasts; shares the ration of EVENT_CLOSED */
struct event {
	__u64 time_ns;
	struct address source;
	struct address destination;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 provenance;
	__u32 length;
	__u16 sport_be;
	__u16 dport_be;
	__u16 endpoint;
	__u8 kind;
	__u8 reason;
	__u8 direction;
	__u8 protocol;
	__u8 tcp_flags[2]; /* of the packet, or all of the flow: forward, reply */
	__u8 is_reply;
	__u8 audited; /* 1: passes although a policy denies it; 2: by break-glass */
	__u8 pad[2];
	__u64 packets[2]; /* of the flow; forward, reply */
	__u64 bytes[2];
	__u32 ifindex;
	__u32 pad_end;
};
struct events_table_t {
	__u32 key;
	__u32 leaf;
	void *(*ringbuf_reserve)(u64);
	void (*ringbuf_submit)(void *, u64);
	__u32 max_entries;
};
__attribute__((section("maps/ringbuf:" PIN_DIRECTORY "/fairlead_events"))) struct events_table_t events = {
	.max_entries = 4096};

/* Per CPU and kind: how many reports this second has left, and how many were not delivered ever. */
struct event_budget {
	__u64 second_began; /* jiffies */
	__u64 lost;
	__u32 spent;
	__u32 no_room; /* how many of the lost ones found the ring buffer full */
};
MAP("percpu_array", __u32, struct event_budget, event_budget);
