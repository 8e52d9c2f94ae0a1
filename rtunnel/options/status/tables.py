"""The tables of ``rtunnel status``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rtunnel.traffic.accounts import DEFAULT

#: The warnings of the log that are shown, and the visitors who were refused.
MOST_WARNINGS = 5
#: The columns of what was carried: visitors now and so far, bytes and rates.
_TRAFFIC = ("Visitors", "So far", "From visitors", "To visitors")


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print what was found."""
    Console(highlight=False, markup=False, emoji=False).print(_all(found))


def watch(look: Callable[[], Sequence[Mapping[str, Any]]], every: float) -> None:
    """Show what *look* finds, again and again, until Ctrl-C.

    :param every: seconds between two looks.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(_all(look()), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(_all(look()), refresh=True)


def _all(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not found:
        return Text("no rtunnel process is running", style="yellow")
    parts: list[RenderableType] = []
    for each in found:
        parts += [*_process(each), Text()]
    return Group(*parts[:-1])


def _process(found: Mapping[str, Any]) -> list[RenderableType]:
    title = Text()
    title.append(_clean(found["service"]), style="bold")
    title.append(f"  pid {found['pid']}")
    if "up_seconds" in found:
        title.append(f", up {span(found['up_seconds'])}, rtunnel {_clean(found['release'])}")
    title.append("   all is well" if found["ok"] else "   not well", style="green" if found["ok"] else "bold red")
    parts: list[RenderableType] = [title]
    parts += [Padding(Text(f"! {_clean(problem)}", style="red"), (0, 0, 0, 2)) for problem in found["problems"]]
    if found.get("successor") is not None:
        text = f"process {found['successor']} has taken its place; this one lets its visitors finish, and ends"
        parts.append(Padding(Text(text), (0, 0, 0, 2)))
    if facts := _facts(found):
        parts.append(Padding(Text(facts), (0, 0, 0, 2)))
    parts += [Padding(_brief(table), (0, 0, 0, 2)) for table in _tables(found) if table.row_count]
    for each in found.get("warnings", [])[-MOST_WARNINGS:]:
        when = time.strftime("%H:%M:%S", time.localtime(each["at"]))
        parts.append(Padding(Text(f"{when} {_clean(each['text'])}", style="yellow"), (0, 0, 0, 2)))
    return parts


def _facts(found: Mapping[str, Any]) -> str:
    facts = [f"{name} at {address}" for name, address in found.get("listening", {}).items()]
    if "server" in found:
        way = f" through the proxy {found['via']}" if found["via"] else ""
        for link in found.get("links", [found]):
            facts += _link(link, way)
    if "signaling" in found:
        facts.append(f"signaling {found['signaling']['url']} {'up' if found['signaling']['up'] else 'down'}")
    if "identity" in found:
        trust = "closed" if found["identity"]["closed"] else "open: it trusts whoever the signaling server shows it"
        signature = found["identity"].get("signature", "")
        second = f", {signature}" if "+" in signature else ""
        facts.append(f"fingerprint {found['identity']['fingerprint']}{second} ({trust})")
    for key, text in (
        ("connections", "connections"),
        ("hosts", "hosts"),
        ("clients", "clients"),
        ("nodes", "nodes"),
        ("visitors", "visitors"),
        ("waiting", "waiting"),
    ):
        if isinstance(found.get(key), int):
            facts.append(f"{text} {found[key]}")
    if "descriptors" in found:
        facts.append(f"descriptors {found['descriptors']['held']} of {found['descriptors']['limit']}")
    if "memory" in found:
        memory = found["memory"]
        facts.append(f"memory at most {size(memory['held_at_most'])} of {size(memory['limit'])}")
    return _clean(", ".join(facts))


def _link(link: Mapping[str, Any], way: str) -> list[str]:
    if link.get("waits"):
        return ["a further link waits for a server"]
    facts = [f"server {link['server']}{way}"]
    if link["connected_seconds"] is None:
        return [*facts, "not connected"]
    facts.append(f"connected for {span(link['connected_seconds'])}")
    if link["round_trip_ms"]:
        facts.append(f"round trip {link['round_trip_ms']:g} ms")
    return [*facts, _tls(link["tls"]) or "no TLS"]


def _tables(found: Mapping[str, Any]) -> list[Table]:
    tables = []
    if isinstance(found.get("clients"), list):
        tables += [*_clients(found["clients"]), _nodes(found.get("nodes", [])), _refusals(found["refusals"])]
    elif "tunnels" in found:
        tables.append(_tunnels(found["tunnels"]))
    if "services" in found:
        tables.append(_table("Service", "Address", "State", *_TRAFFIC))
        for each in found["services"]:
            state = f"no answer: {each['problem']}" if each["problem"] else "answers" if each["answers"] else "unknown"
            tables[-1].add_row(*map(_clean, (each["name"] or DEFAULT, each["service"], state)), *_traffic(each))
    tables.append(_invitations(found.get("invitations", [])))
    if "forwards" in found:
        tables.append(_table("Local", "Service", *_TRAFFIC))
        for each in found["forwards"]:
            tables[-1].add_row(*map(_clean, (each["local"], each["service"] or DEFAULT)), *_traffic(each))
    peers = [*found.get("peers", []), *([found["peer"]] if found.get("peer") else [])]
    return [*tables, _peers(peers), _uses(peers)]


def _clients(found: Sequence[Mapping[str, Any]]) -> tuple[Table, Table]:
    clients = _table("Client", "Address", "Connected", "Round trip", "TLS", "Visitors")
    tunnels = _table("Client", "Published", "Service", "State", "Group", *_TRAFFIC)
    for client in found:
        clients.add_row(
            *map(_clean, (client["name"], client["address"])),
            span(client["connected_seconds"]),
            f"{client['round_trip_ms']:g} ms" if client["round_trip_ms"] else "",
            _tls(client["tls"]) or "none",
            str(client["visitors"]),
        )
        for each in client["tunnels"]:
            state = "waits" if not each["published"] else "published" if each["ready"] else "service is down"
            tunnels.add_row(
                *map(_clean, (client["name"], each["place"], each["service"], state, each["group"] or "")),
                *_traffic(each),
            )
    return clients, tunnels


def _nodes(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the other nodes of a server's cluster."""
    table = _table("Node", "Address", "Link", "Round trip", "Its tunnels", "Its visitors")
    for each in found:
        table.add_row(
            *map(_clean, (each["node"], each["address"], f"down: {each['why']}" if each["why"] else "up")),
            f"{each['round_trip_ms']:g} ms" if each["round_trip_ms"] else "",
            *(str(each.get("tunnels", "")), str(each["visitors"])),
        )
    return table


def _refusals(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Refused", "Address", "Tunnel", "Why")
    for each in found[-MOST_WARNINGS:]:
        when = time.strftime("%H:%M:%S", time.localtime(each["at"]))
        table.add_row(when, *map(_clean, (each["address"], each["place"], each["why"])))
    return table


def _tunnels(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Tunnel", "Public", "Service", "State", "Group", *_TRAFFIC)
    for each in found:
        if each["refused"]:
            state = f"refused: {each['refused']}"
        elif not each["published"]:
            state = "waits"
        else:
            state = f"no answer: {each['problem']}" if each["problem"] else "published"
        if each.get("added"):
            state += f" (added, {each['added']})"
        table.add_row(
            *map(_clean, (each["name"], each["public"] or "", each["service"], state, each["group"] or "")),
            *_traffic(each),
        )
    return table


def _invitations(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Invitation", "For", "Services", "State", "Guess", "Until")
    for each in found:
        services = "all" if each["services"] is None else ", ".join(each["services"])
        guess = "spent" if each["spent"] else "not spent"
        table.add_row(
            str(each["number"]),
            *map(_clean, (each["client"] or each["for"] or "", services, each["stage"], guess, each["until"] or "")),
        )
    return table


def _peers(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Peer", "Sealed", "Path", "Round trip", "Sent", "Received", "Streams", "Datagrams dropped")
    for each in found:
        path = each["path"] or ("connected" if each["connected"] else "connecting")
        table.add_row(
            *(_clean(each["id"]), _clean(_seal(each)), _clean(path)),
            f"{each['round_trip_ms']:g} ms" if each["round_trip_ms"] else "",
            _passed(each["bytes_sent"], each["lost_lately"]),
            _passed(each["bytes_received"], each["missed_lately"]),
            *(str(each["streams"]), str(each["datagrams_dropped"])),
        )
    return table


def _seal(peer: Mapping[str, Any]) -> str:
    sealed = peer["sealed"]
    if sealed:
        return f"{_tls(sealed)}, {sealed['name']}"
    return "no" if peer["connected"] else ""


def _uses(peers: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each client of a host uses."""
    table = _table("Client", "Uses", "Streams", "Streams total", "From client", "To client", "May use", "Until")
    shown = set()
    for peer in peers:
        if not peer.get("uses") or peer["client"] in shown:
            continue
        # One client may have several peer connections.
        shown.add(peer["client"])
        may = peer["may"]["services"]
        for each in peer["uses"]:
            table.add_row(
                *map(_clean, (peer["client"], each["service"])),
                *(str(each["streams"]), str(each["streams_total"])),
                *(size(each["from_client"]), size(each["to_client"])),
                *map(_clean, ("" if may is None else ", ".join(may), peer["may"]["until"] or "")),
            )
    return table


def _traffic(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    traffic = found["traffic"]
    came, went = (
        _carried(traffic[way], traffic[f"{way}_rate"]) if traffic[way] else ""
        for way in ("from_visitors", "to_visitors")
    )
    return str(found["visitors"]), str(found["visitors_total"]), came, went


def _carried(total: int, rate: float) -> str:
    return size(total) + (f", {size(rate)}/s" if rate >= 1 else "")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _brief(table: Table) -> Table:
    """Return a table without the columns that say nothing."""
    table.columns = [column for column in table.columns if any(column.cells)]
    return table


def _tls(found: Mapping[str, str] | None) -> str:
    return f"{' + '.join((found['group'], *found.get('hedge', ())))}, {found['signature']}" if found else ""


def _passed(count: int, lost: float | None) -> str:
    return size(count) + (f", {lost:.1%} lost" if lost else "")


def _clean(text: str) -> str:
    """Return *text* without what a terminal would obey. Peers choose some of it."""
    return "".join(one if one.isprintable() else "?" for one in text)


def size(count: float) -> str:
    """Return a number of bytes as people say it, such as ``5.9 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.0f} TiB" if count >= 100 else f"{count:.3g} TiB"


def span(seconds: float) -> str:
    """Return a time as people say it, such as ``3 h 12 min``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
