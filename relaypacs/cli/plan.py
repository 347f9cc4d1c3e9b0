"""`relaypacs config plan`: what a new configuration would have done with what was received last.

From the job table alone, so what a rule asks of other elements (`tags`) is not known: what hangs on it is counted as
open, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from relaypacs.cli import say
from relaypacs.cli.associations import host_of
from relaypacs.config import Config, Rule
from relaypacs.config.change import taken
from relaypacs.errors import ConfigError
from relaypacs.jobs.associations import Received
from relaypacs.model import ObjectMeta, Routed, RoutingKeys
from relaypacs.policy.admission import find_caller
from relaypacs.policy.routing import Router

_Answer = tuple[str, ...] | str


class _Rules:
    """A configuration's answers, with rules that ask for `tags` taken as never and as always fitting in that."""

    def __init__(self, config: Config) -> None:
        self.asking = tuple(one for one in config.rule if one.tags)
        stripped = [one.model_copy(update={"tags": {}}) for one in config.rule]
        self._never, self._always = (self._router(rules, config) for rules in (self._untagged(config), stripped))

    def answers(self, one: Received) -> tuple[_Answer, _Answer]:
        """Where it goes if no such rule fits, and if all do."""
        keys = RoutingKeys(modality=one.modality, sop_class_uid=one.sop_class_uid)
        meta = ObjectMeta("", one.calling_ae, one.called_ae, "", 0.0, one.sop_class_uid, "", "")
        return self._ask(self._never, keys, meta), self._ask(self._always, keys, meta)

    @staticmethod
    def _untagged(config: Config) -> Sequence[Rule]:
        return [one for one in config.rule if not one.tags]

    @staticmethod
    def _router(rules: Sequence[Rule], config: Config) -> Router:
        return Router(rules, config.routing.default, ae_titles_case_sensitive=config.receive.ae_titles_case_sensitive)

    @staticmethod
    def _ask(router: Router, keys: RoutingKeys, meta: ObjectMeta) -> _Answer:
        route = router.route(keys, meta)
        return tuple(sorted(route.destinations)) if route.verdict is Routed.ROUTED else route.verdict.value


def plan(old: Config, new: Config, received: Sequence[Received], *, as_json: bool) -> int:
    """Tell what differs; 1 if something does, or may."""
    before, after = _Rules(old), _Rules(new)
    changed: Counter[tuple[str, str, str, str]] = Counter()
    refused: Counter[str] = Counter()
    unknown = 0
    for one in received:
        was, will = before.answers(one), after.answers(one)
        if was[0] == was[1] and will[0] == will[1]:
            if was[0] != will[0]:
                changed[one.calling_ae, one.modality, _said(was[0]), _said(will[0])] += 1
        elif not (was == will and before.asking == after.asking):
            unknown += 1
        if _caller(old, one) and not _caller(new, one):
            refused[one.calling_ae] += 1
    try:
        waiting = taken(old, new)[1]
    except ConfigError as wrong:
        waiting = wrong.problems
    if as_json:
        say.out_json(
            {
                "looked_at": len(received),
                "changed": [
                    {"calling_ae": key[0], "modality": key[1], "from": key[2], "to": key[3], "instances": count}
                    for key, count in changed.most_common()
                ],
                "open": unknown,
                "refused": dict(refused),
                "waiting": waiting,
            }
        )
        return 1 if changed or unknown or refused else 0
    say.out(f"Of the last {say.counted(len(received), 'instance')} received:")
    if changed:
        rows = [[say.printable(part) for part in key] + [str(count)] for key, count in changed.most_common()]
        say.out_table(["calling AE title", "modality", "went to", "would go to", "instances"], rows)
    for title, count in refused.most_common():
        say.out(f"{count} came from {say.printable(title)}, which would not be admitted.")
    if unknown:
        say.out(f"{unknown} depend on elements that the job table does not keep (`tags` of a rule).")
    if not (changed or unknown or refused):
        say.out("Every one would go where it went.")
    if waiting:
        say.tell(f"Waiting for a restart of the node: {', '.join(waiting)}")
    return 1 if changed or unknown or refused else 0


def _caller(config: Config, one: Received) -> bool:
    sensitive = config.receive.ae_titles_case_sensitive
    found = find_caller(config.caller, one.calling_ae, case_sensitive=sensitive, peer_host=host_of(one.peer))
    return found is not None


def _said(answer: _Answer) -> str:
    return answer if isinstance(answer, str) else ", ".join(answer)
