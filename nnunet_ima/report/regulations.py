"""Which section of the dossier speaks to which topic of which text; it quotes none of them and claims no conformity."""

from __future__ import annotations

from nnunet_ima.report.document import Block, Table, Text

TOPICS = (
    ("EU AI Act, Article 15(3)", "accuracy and its metrics are declared", "Results; Look into the cases"),
    ("EU AI Act, Article 15(5)", "resilience against those who alter inputs", "Threat model; Results; Soundness"),
    (
        "FDA, draft guidance on AI-enabled device software functions, January 2025",
        "performance under foreseeable changes of input, in subgroups, with uncertainty; transparency",
        "Intended use; Results; Strata; Limits",
    ),
    ("ISO/IEC TR 24029-1", "overview of ways to assess the robustness of neural networks", "Protocol; Limits"),
    ("ISO/IEC 24029-2", "formal methods; this dossier holds measurements, no proofs", "Limits"),
    ("ISO/IEC DIS 24029-3", "statistical methods for the assessment of robustness", "Results; Strata; Soundness"),
    ("CLAIM checklist", "robustness or sensitivity analysis of the model", "Results; Threat model"),
)


def blocks() -> tuple[Block, ...]:
    """The table, with what it does not say."""
    return (
        Text("Where a reader of these texts finds what they ask about. It is no claim of conformity.", "note"),
        Table(("text", "topic", "sections here"), TOPICS),
    )
