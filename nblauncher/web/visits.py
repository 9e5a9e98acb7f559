"""The teacher's way to a student's server: a link from `nblauncher open`, which works once (docs/security.md).

The secret stands after the `#`, which browsers send to no server: it is in no log and no Referer. The supervisor judges
it and tells the student; the front page passes on what it answers, as a ticket.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from nblauncher.auth.tickets import TicketBook, is_well_formed
from nblauncher.model import ServerState
from nblauncher.web.door import ANSWER, Stage, visit_of
from nblauncher.web.pages import WAITING_LIFETIME, SignIn

log = logging.getLogger(__name__)


class Visit(SignIn):
    """The page of the link, and what follows its button."""

    waiting = TicketBook(lifetime=WAITING_LIFETIME)
    """Visits to servers that are starting."""

    async def get(self, *arguments: str) -> None:
        self._page(script=True, form_action="'self'")

    async def _post(self) -> None:
        token = self.get_body_argument("waiting", "")
        if token:
            entry = self.waiting.take(token)
            found = None if entry is None else (entry.username, entry.visit)
        else:
            found = await self._admitted(self.get_body_argument("link", ""))
        if found is None:
            self.message(403, "visit_used", "visit_again")
            return
        await self._lead_to(*found)

    async def _admitted(self, link: str) -> tuple[str, str] | None:
        """Whose server the link opens, and the visit. A wrong one is answered with growing delays."""
        address = self.request.remote_ip or ""
        if is_well_formed(link):
            digest = hashlib.sha256(link.encode("ascii")).hexdigest()
            found = await self.front_page.supervisor.admit(digest, address)
            if found is not None and found.username in self.front_page.of.students:
                return found.username, found.visit
        delay = self.front_page.guesses.wrong(self._client(address).group, "")
        if delay and self.request.connection is not None:
            visit_of(self.request.connection).enter(Stage.DELAYED, delay + ANSWER)
        await asyncio.sleep(delay)
        return None

    async def _lead_to(self, username: str, visit: str) -> None:
        state = await self._awake(username)
        if state is ServerState.READY:
            origin, source = self.server_of(username)
            target = f"{origin}/user/{username}/nblauncher/ticket"
            ticket = self._ticket(username, visit)
            self._page(form_action=source, script=True, username=username, target=target, ticket=ticket)
        elif state in (ServerState.FAILED, ServerState.STOPPED):
            self.message(200, "visit_down", "teachers_status", username=username)
        else:
            token = self.waiting.issue(username, visit)
            self._page(form_action="'self'", script=True, username=username, waiting=token)

    def _page(self, *, form_action: str, script: bool, **values: str) -> None:
        about = {"username": "", "target": "", "ticket": "", "waiting": "", **values}
        self.show("visit.html", form_action=form_action, script=script, **about)


ROUTES = {r"/open\.html": Visit}
