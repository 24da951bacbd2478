"""The providers that CUSTOM policies ask: which of them a port needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.rule import Effect

if TYPE_CHECKING:
    from limen.core.compiler.environment import Environment
    from limen.core.model.provider import ExtensionProvider
    from limen.core.policy.rule import Policy, Rule


def custom_rules(policy: Policy) -> tuple[Rule, ...]:
    """Rules that ask, in evaluation order."""
    return tuple(r for layer in policy.layers for r in layer.rules if r.effect is Effect.CUSTOM)


def asked_providers(env: Environment, policy: Policy) -> tuple[ExtensionProvider, ...]:
    """The providers of `policy`'s rules that MeshSettings declares, sorted by name."""
    wanted = sorted({rule.provider for rule in custom_rules(policy)})
    found = (env.provider(name) for name in wanted)
    return tuple(provider for provider in found if provider is not None)
