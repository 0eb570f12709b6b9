"""The page of a run or a study, which commands write at their end and `fanlight report` writes again."""

import shlex
from pathlib import Path

from fanlight.errors import RunError


def write_report(run: Path) -> Path:
    """The report.html of a run or a study, written."""
    from fanlight.study import report as reports

    is_project = (run / "recipe.json").exists()
    is_study = is_project or (not (run / "run.json").exists() and (run / "study.json").exists())
    try:
        if is_project:
            from fanlight.study.projects import page as project_page

            return project_page.write(run)
        if is_study:
            from fanlight.study.layouts import page

            return page.write(run)
        return reports.write(run)
    except OSError as error:
        raise RunError(
            f"the report of {run} cannot be written: {error.filename or run}: {error.strerror or error}; what "
            f"the {'study' if is_study else 'run'} itself wrote is whole. Write it again with: fanlight report "
            f"{shlex.quote(str(run))}"
        ) from None
