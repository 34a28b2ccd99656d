/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counting and telling. Reports are rationed per second, so that a flood costs counters and not a processor. */
#pragma once
#include "scratch.h"

static __always_inline void count(const struct __sk_buff *skb, __u32 reason, __u32 direction)
{
	__u32 index = (reason & 0xff) * 2 + (direction & 1);
	struct counter *counter = metrics.lookup(&index);

	if (!counter)
		return;
	counter->packets++;
	counter->bytes += skb->len;
}

/* Take one report from this second's ration; what is refused counts as lost. */
static __always_inline bool may_report(__u32 kind, struct event_budget **budget_of_kind)
{
	__u32 zero = 0, index = (kind == EVENT_LASTING ? EVENT_CLOSED : kind) - 1;
	struct event_budget *budget = event_budget.lookup(&index);
	struct settings *config = settings.lookup(&zero);
	__u64 now = bpf_jiffies64();

	if (!budget || !config)
		return false;
	*budget_of_kind = budget;
	if (now - budget->second_began >= config->second) {
		budget->second_began = now;
		budget->spent = 0;
	}
	if (budget->spent < config->events_per_second[index & 3]) {
		budget->spent++;
		return true;
	}
	budget->lost++;
	return false;
}

/* Return a blank report to fill and submit, or nothing. */
static __always_inline struct event *begin_report(const struct __sk_buff *skb, __u32 kind)
{
	struct event_budget *budget;
	struct event *event;

	if (!may_report(kind, &budget))
		return 0;
	event = events.ringbuf_reserve(sizeof(struct event));
	if (!event) {
		budget->lost++;
		budget->no_room++;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->kind = kind;
	event->length = skb->len;
	event->ifindex = skb->ifindex;
	return event;
}

static __always_inline void report(const struct __sk_buff *skb, const struct packet *p, const struct verdict *v,
				   __u32 kind)
{
	struct event *event = begin_report(skb, kind);

	if (!event)
		return;
	event->source = p->source;
	event->destination = p->destination;
	event->source_identity = v->source_identity;
	event->destination_identity = v->destination_identity;
	event->provenance = v->provenance;
	event->sport_be = p->sport_be;
	event->dport_be = p->dport_be;
	event->endpoint = v->endpoint;
	event->reason = v->reason;
	event->direction = v->direction;
	event->protocol = p->protocol;
	event->tcp_flags[0] = p->tcp_flags;
	event->is_reply = v->is_reply;
	event->audited = kind == EVENT_AUDIT ? 1 + v->by_glass : 0;
	events.ringbuf_submit(event, 0);
}

/* The one exit of every packet that does not pass. */
static __always_inline int drop(const struct __sk_buff *skb, const struct packet *p, const struct verdict *v)
{
	count(skb, v->reason, v->direction);
	report(skb, p, v, EVENT_DROP);
	return TC_ACT_SHOT;
}

/* Drop what carries no news: the counter tells enough. */
static __always_inline int drop_quietly(const struct __sk_buff *skb, __u32 reason, __u32 direction)
{
	count(skb, reason, direction);
	return TC_ACT_SHOT;
}
