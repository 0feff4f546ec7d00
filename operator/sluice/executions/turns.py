"""Whose turn it is: namespaces one after the other, and in each its workflows."""

import weakref
from collections import deque

from sluice.executions.line import Line, Space


class Turns:
    """Lines that have something to begin, within the ceilings of workflow and namespace.

    A flood delays its neighbour in the namespace by one execution a turn, and so does a namespace
    that floods.
    """

    def __init__(self, running_max: int, namespace_running_max: int) -> None:
        self._running_max, self._namespace_running_max = running_max, namespace_running_max
        self._spaces: weakref.WeakValueDictionary[str, Space] = weakref.WeakValueDictionary()
        self._due: deque[Space] = deque()

    def space(self, namespace: str) -> Space:
        """Return the one of a namespace; it is there for as long as a line of it is."""
        found = self._spaces.get(namespace)
        if found is None:
            self._spaces[namespace] = found = Space()
        return found

    def offer(self, line: Line) -> None:
        """Give a line its place, if it has none and has something to begin."""
        if not line.offered and line.ready(self._running_max):
            line.offered = True
            line.space.lines.append(line)
            self._list(line.space)

    def take(self) -> Line | None:
        """Return the line whose turn it is; it has none any more until it is offered again."""
        while self._due:
            space = self._due.popleft()
            space.listed = False
            line = self._first(space)
            self._list(space)
            if line:
                return line
        return None

    def began(self, line: Line) -> None:
        line.running += 1
        line.space.running += 1

    def ended(self, line: Line) -> None:
        line.running -= 1
        line.space.running -= 1
        self._list(line.space)
        self.offer(line)

    def _first(self, space: Space) -> Line | None:
        if space.running >= self._namespace_running_max:
            return None
        while space.lines:
            line = space.lines.popleft()
            line.offered = False
            if line.ready(self._running_max):
                return line
        return None

    def _list(self, space: Space) -> None:
        full = space.running >= self._namespace_running_max
        if space.lines and not space.listed and not full:
            space.listed = True
            self._due.append(space)
