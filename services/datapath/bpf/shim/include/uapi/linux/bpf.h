/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Empty on purpose: BCC carries its own bpf.h and includes it first. */
#pragma once
