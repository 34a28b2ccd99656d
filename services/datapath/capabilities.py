"""What the node's kernel can do, and what is used where it cannot: for the log, `fairlead datapath features` and the health."""

from __future__ import annotations

import logging

from fairlead.errors import Unavailable
from fairlead.schema.base import Empty, NodeName
from fairlead.schema.features import KernelFeature, KernelFeatures
from services.datapath.reports import KernelReport

_LOG = logging.getLogger("datapath.capabilities")


class Capabilities:
    """What the last start of the kernel's side has found."""

    def __init__(self, node: NodeName) -> None:
        self._node = node
        self._report: KernelReport | None = None

    def hear(self, report: KernelReport) -> None:
        """Take what a start has found, and log what is missing."""
        self._report = report
        for text in self._lacking(report):
            _LOG.info("kernel %s has no %s", report.kernel_release, text)

    @property
    def lacking(self) -> str:
        """Return what is missing and what is used instead, in one line; empty when nothing is."""
        return "; ".join(self._lacking(self._report)) if self._report else ""

    @staticmethod
    def _lacking(report: KernelReport) -> list[str]:
        return [f"{one.name}: {one.instead} instead" for one in report.features if not one.present]

    async def show(self, _ask: Empty) -> KernelFeatures:
        """Return everything that was tried. Raises Unavailable before the first start has succeeded."""
        if self._report is None:
            raise Unavailable(f"the datapath of node {self._node} is not up: `fairlead status` says why")
        return KernelFeatures(
            node=self._node,
            kernel=self._report.kernel_release,
            features=tuple(
                KernelFeature(name=one.name, present=one.present, use=one.use, instead=one.instead)
                for one in self._report.features
            ),
        )
