"""Sizes and times of the kernel's side."""

from __future__ import annotations

from dataclasses import dataclass

from services.datapath.settings import DatapathSettings


@dataclass(frozen=True)
class Tuning:
    """Sizes and times that a node may want otherwise."""

    flows: int = 131_072
    """Entries of the flow table, some 170 bytes of kernel memory each."""
    addresses: int = 512_000
    masquerades: int = 65_536
    """Flows that have an outer end at a time, some 130 bytes of kernel memory each."""
    syn_timeout_s: int = 60
    established_timeout_s: int = 8000
    closing_timeout_s: int = 10
    other_timeout_s: int = 60
    drop_events_per_second: int = 1000
    """Per processor; what is above counts as lost."""
    flow_events_per_second: int = 1000
    report_interval_s: int = 0
    """How often a flow that lasts is reported; 0: never."""


def tuning_of(settings: DatapathSettings) -> Tuning:
    """Return the sizes and times that the options ask for."""
    return Tuning(
        flows=settings.flows,
        syn_timeout_s=settings.flow_syn_timeout_s,
        established_timeout_s=settings.flow_established_timeout_s,
        closing_timeout_s=settings.flow_closing_timeout_s,
        other_timeout_s=settings.flow_other_timeout_s,
        drop_events_per_second=settings.drop_events_per_s,
        flow_events_per_second=settings.flow_events_per_s,
        report_interval_s=settings.flow_report_interval_s,
    )
