"""WorkloadAudit: workloads, or nodes, whose policy is reported and not enforced for a while, whichever documents it comes from."""

from __future__ import annotations

from fairlead.schema.policy import Direction
from services.policy.cilium_peers import label_requirements
from services.policy.documents import LabelSelector, Part
from services.policy.life import Life, as_time
from services.policy.ports import refuse
from services.policy.rules import Reader, Rule, Stage
from services.policy.selector import Selector


class AuditSpec(Part, frozen=True, kw_only=True):
    """`spec` of a WorkloadAudit."""

    endpoint_selector: LabelSelector | None = None
    node_selector: LabelSelector | None = None
    until: str
    """From then on the policy is enforced again, and the document is gone."""
    ingress: bool = True
    egress: bool = True


class AuditDocument(Part, frozen=True, kw_only=True):
    """What a WorkloadAudit holds beside its name."""

    spec: AuditSpec


def read(spec: AuditSpec, life: Life, reader: Reader) -> tuple[list[Rule], Life]:
    """Return one rule for each direction, and how long they stand. Raises InvalidInput naming the field."""
    if life != Life():
        refuse("metadata.annotations", "an audit is not audited or staged, and ends at `spec.until`")
    if (spec.endpoint_selector is None) == (spec.node_selector is None):
        refuse("spec", "exactly one of `endpointSelector` and `nodeSelector` is needed")
    chosen = {Direction.INGRESS: spec.ingress, Direction.EGRESS: spec.egress}
    if not any(chosen.values()):
        refuse("spec", "one of `ingress` and `egress` must be true")
    field = "nodeSelector" if spec.endpoint_selector is None else "endpointSelector"
    asked = spec.endpoint_selector or spec.node_selector or LabelSelector()
    subject = Selector(label_requirements(asked, f"spec.{field}"))
    rules = [
        Rule(
            subject=subject,
            direction=direction,
            peers=(),
            traffic=(),
            origin=reader.origin("spec"),
            default_deny=False,
            selects_hosts=field == "nodeSelector",
            audits=True,
        )
        for direction, wanted in chosen.items()
        if wanted
    ]
    until = as_time(spec.until, "spec.until")
    return rules, Life(Stage.AUDIT, audit_until=until, expires=until)
