"""From a document as it travels to a policy that has been understood: the only way in."""

from __future__ import annotations

import re
from typing import Any

from fairlead.codec import from_builtins
from fairlead.schema.policy import PolicyObject, PolicyReference
from services.policy import audits, cilium, groups, kubernetes, trials
from services.policy.documents import CiliumDocument, KubernetesDocument
from services.policy.labels import DEFAULT_NAMESPACE
from services.policy.life import Life, read_life
from services.policy.limits import limits
from services.policy.ports import refuse
from services.policy.rules import (
    API_VERSION_BY_KIND,
    CIDR_GROUP,
    CLUSTER_SCOPED,
    KUBERNETES,
    POLICY_TESTS,
    WORKLOAD_AUDIT,
    Policy,
    Reader,
    Rule,
    Translation,
)

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9_-])?")
"""Also what compose takes for a project's name."""


def parse(document: PolicyObject, translation: Translation) -> Policy:
    """Return the policy in the document. Raises InvalidInput naming the field.

    What this installation has no proxy, authenticator or resolver for is understood all the same; `warnings` say what becomes of it.
    """
    reader = Reader(reference_of(document), translation)
    life = read_life(document.metadata)
    group, rules = None, list[Rule]()
    if document.kind == CIDR_GROUP:
        if life != Life():
            refuse("metadata.annotations", "a group of prefixes is not audited or staged and does not expire")
        group = groups.read(_typed(document, groups.CidrGroupDocument).spec, document.metadata, reader)
    elif document.kind == WORKLOAD_AUDIT:
        rules, life = audits.read(_typed(document, audits.AuditDocument).spec, life, reader)
    elif document.kind == POLICY_TESTS:
        trials.check_tests_only(_typed(document, trials.TestsDocument), document.tests, life)
    elif document.kind == KUBERNETES:
        rules = kubernetes.read(_typed(document, KubernetesDocument).spec, reader)
    else:
        typed = _typed(document, CiliumDocument)
        rules = cilium.read(typed, reader)
        reader.warnings += limits(typed)
    policy = Policy(
        reader.reference,
        tuple(rules),
        tuple(dict.fromkeys(reader.warnings)),
        tuple(reader.expected),
        group,
        trials.read(document.tests, reader),
        audit_until=life.audit_until,
        expires=life.expires,
    )
    return policy.at(life.stage)


def reference_of(document: PolicyObject) -> PolicyReference:
    """Return which policy the document is. Raises InvalidInput for a kind, a version or a name that cannot be."""
    wanted = API_VERSION_BY_KIND.get(document.kind)
    if wanted is None:
        refuse("kind", f"{document.kind!r} is not one of {', '.join(API_VERSION_BY_KIND)}")
    if document.apiVersion != wanted and (document.kind, document.apiVersion) != (CIDR_GROUP, "cilium.io/v2alpha1"):
        refuse("apiVersion", f"{document.apiVersion!r} is not {wanted!r}, the version of {document.kind}")
    name, namespace = document.metadata.get("name"), document.metadata.get("namespace")
    return normal_reference(document.kind, name, namespace, path="metadata.")


def normal_reference(kind: str, name: Any, namespace: Any, *, path: str = "policy.") -> PolicyReference:
    """Return the reference with the namespace filled in. Raises InvalidInput for names that cannot be."""
    if kind not in API_VERSION_BY_KIND:
        refuse(f"{path}kind", f"{kind!r} is not one of {', '.join(API_VERSION_BY_KIND)}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"{path}name", f"{name!r} is no name: a-z, 0-9, - and . inside, at most 253")
    if kind in CLUSTER_SCOPED:
        if namespace:
            refuse(f"{path}namespace", f"a {kind} has none: leave it out")
        return PolicyReference(kind=kind, name=name, namespace="")
    if namespace not in (None, "") and (not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace)):
        refuse(f"{path}namespace", f"{namespace!r} is no name: a-z, 0-9, - and . (or _) inside, at most 253")
    return PolicyReference(kind=kind, name=name, namespace=namespace or DEFAULT_NAMESPACE)


def _typed(document: PolicyObject, kind: type[Any]) -> Any:
    """Return spec and specs with types; null means absent, as in Kubernetes."""
    if kind is not CiliumDocument and document.specs is not None:
        refuse("specs", f"a {document.kind} has `spec` only")
    given = {"spec": document.spec, "specs": document.specs}
    return from_builtins({name: value for name, value in given.items() if value is not None}, kind)
