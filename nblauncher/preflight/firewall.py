"""Whether the host's firewall lets students in: ufw, firewalld or nftables, whichever is active."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from nblauncher.preflight.finding import Ask, Finding, ok, warning
from nblauncher.preflight.ports import in_words, ranges

_SUBJECT = "firewall"


def firewall(ports: Collection[int], ask: Ask) -> Iterator[Finding]:
    """Ask ufw, then firewalld (both write nftables rules); if neither is active, read nftables."""
    for judge in (_ufw, _firewalld):
        finding = judge(ports, ask)
        if finding is not None:
            yield finding
            break
    else:
        yield from _nftables(ports, ask)
    yield ok(_SUBJECT, f"a firewall between the students and this host must let TCP {in_words(ports)} through")


def _ufw(ports: Collection[int], ask: Ask) -> Finding | None:
    answer = ask(["ufw", "status", "verbose"])
    if answer is None or "Status: inactive" in answer.text:
        return None
    if "Status: active" not in answer.text:
        return _unknown("ufw", ports)
    allowed = set(ports) if "Default: allow (incoming)" in answer.text else set[int]()
    for line in answer.text.splitlines():
        match = re.match(r"([0-9:,]+)(/tcp)?\s+ALLOW(?: IN)?\s+Anywhere\s*$", line.strip())
        if match:
            allowed |= set(_numbers(match[1].replace(":", "-")))
    commands = [f"ufw allow {low}:{high}/tcp" if low != high else f"ufw allow {low}/tcp" for low, high in ranges(ports)]
    return _judged("ufw", ports, allowed, " && ".join(commands))


def _firewalld(ports: Collection[int], ask: Ask) -> Finding | None:
    state = ask(["firewall-cmd", "--state"])
    if state is None or "not running" in state.text or state.exit_status == 252:
        return None
    listed = ask(["firewall-cmd", "--list-ports"])
    if state.exit_status != 0 or listed is None or listed.exit_status != 0:
        return _unknown("firewalld", ports)
    allowed = {
        port for word in listed.text.split() if word.endswith("/tcp") for port in _numbers(word.removesuffix("/tcp"))
    }
    options = " ".join(f"--add-port={in_words(range(low, high + 1))}/tcp" for low, high in ranges(ports))
    return _judged("firewalld", ports, allowed, f"firewall-cmd --permanent {options} && firewall-cmd --reload")


def _nftables(ports: Collection[int], ask: Ask) -> Iterator[Finding]:
    answer = ask(["nft", "-j", "list", "ruleset"])
    if answer is None:
        yield ok(_SUBJECT, "no firewall was found on this host")
        return
    try:
        items = json.loads(answer.text)["nftables"] if answer.exit_status == 0 else None
    except (ValueError, KeyError, TypeError):
        items = None
    if items is None:
        yield _unknown("nftables", ports)
        return
    chains = [item["chain"] for item in items if _is_input(item.get("chain", {}))]
    rules = [item["rule"] for item in items if "rule" in item]
    closed = False
    for chain in chains:
        place = {key: chain[key] for key in ("family", "table")}
        own = [rule for rule in rules if rule["chain"] == chain["name"] and place.items() <= rule.items()]
        allowed = _accepted(ports, chain.get("policy", "accept"), own)
        if not set(ports) <= allowed:
            closed = True
            where = f"{chain['family']} {chain['table']} {chain['name']}"
            wanted = in_words(ports)
            dport = f"{{ {wanted} }}" if "," in wanted else wanted
            command = f"nft insert rule {where} tcp dport {dport} accept"
            yield _judged(
                f"nftables ({where})", ports, allowed, command, " and add the rule to /etc/nftables.conf to keep it"
            )
    if not closed:
        yield ok(_SUBJECT, "nftables lets the class's ports through" if chains else "nftables has no rules for input")


def _is_input(chain: Mapping[str, Any]) -> bool:
    return chain.get("hook") == "input" and chain.get("family") in ("ip", "ip6", "inet")


def _accepted(ports: Collection[int], policy: str, rules: Iterable[Mapping[str, Any]]) -> set[int]:
    """The ports that a chain accepts from every address. A rule with other conditions counts as closed, to be safe."""
    undecided = set(ports)
    accepted: set[int] = set()
    for rule in rules:
        parts = rule.get("expr", ())
        words = {word for part in parts for word in part}
        if words & {"jump", "goto", "vmap", "xt"}:
            policy = "drop"  # we do not follow other chains
        matches = [part["match"] for part in parts if "match" in part]
        verdict = next((word for word in ("accept", "drop", "reject") if word in words), "")
        if not verdict or any(not _is_port_match(match) for match in matches):
            continue
        hit = set(undecided)
        for match in matches:
            hit &= _ports_of(match["right"])
        undecided -= hit
        if verdict == "accept":
            accepted |= hit
    return accepted | undecided if policy == "accept" else accepted


def _is_port_match(match: Mapping[str, Any]) -> bool:
    payload = match.get("left", {}).get("payload", {}) if isinstance(match.get("left"), dict) else {}
    is_tcp = payload.get("protocol") in ("tcp", "th") and payload.get("field") == "dport"
    return is_tcp and match.get("op") == "==" and not isinstance(match.get("right"), str)


def _ports_of(right: Any) -> set[int]:
    if isinstance(right, int):
        return {right}
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return set(range(int(low), int(high) + 1))
    if isinstance(right, dict) and "set" in right:
        return {port for part in right["set"] for port in _ports_of(part)}
    return set()


def _numbers(text: str) -> Iterator[int]:
    for first, last in re.findall(r"([0-9]+)(?:-([0-9]+))?", text):
        yield from range(int(first), int(last or first) + 1)


def _judged(name: str, ports: Collection[int], allowed: set[int], command: str, more: str = "") -> Finding:
    missing = set(ports) - allowed
    if not missing:
        return ok(_SUBJECT, f"{name} lets {in_words(ports)} through")
    return warning(_SUBJECT, f"{name} does not let {in_words(missing)} through for all", f"Run `{command}`{more}.")


def _unknown(name: str, ports: Collection[int]) -> Finding:
    return warning(
        _SUBJECT,
        f"{name} is there and did not say what it lets through",
        f"Run `sudo nblauncher check`, or check that TCP {in_words(ports)} is open.",
    )
