"""A progress bar for what takes longer than a few seconds: on a terminal only, so that logs stay readable."""

from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def bar() -> Progress:
    """Not started; of no effect where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # By hand: a thread that draws ten times a second would run while the clock does.
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, auto_refresh=False)


@contextmanager
def over(total: int, text: str):
    """Yields what advances the bar by one: advance(text=None)."""
    with bar() as progress:
        task = progress.add_task(text, total=total)
        progress.refresh()

        def advance(now: str | None = None) -> None:
            progress.update(task, advance=1, refresh=True, **({"description": now} if now else {}))

        yield advance


class SessionBar:
    """One bar over all cases of a run, which is gone while others write."""

    def __init__(self):
        self.total = self.done = 0
        self.progress = bar()
        self.task = None
        self.began = monotonic()

    def elapsed(self) -> float:
        return monotonic() - self.began

    def text(self, seconds: float) -> str:
        """Where the run is, for those who see no bar, after a case that took so long."""
        minutes = self.elapsed() / 60
        left = minutes / max(self.done, 1) * (self.total - self.done)
        return f"  {seconds:.1f} s; {self.done} of {self.total} in {minutes:.1f} min, some {left:.1f} left"

    @contextmanager
    def shown(self, text: str):
        """While one of the cases is measured; yields tick(share), which says what share of it is done."""
        if self.task is None:
            self.task = self.progress.add_task("", total=self.total)
        drawn = 0.0

        def show(share: float) -> None:
            nonlocal drawn
            if share in (0, 1) or monotonic() - drawn > 0.2:
                drawn = monotonic()
                description = f"{self.done + 1}/{self.total} {text}"
                self.progress.update(self.task, completed=self.done + share, description=description, refresh=True)

        self.progress.start()
        try:
            show(0)
            yield show
        finally:
            self.progress.stop()
        self.done += 1
