/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What BCC asks of a kernel's configuration, and nothing else. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
