"""Upload networks to the Hugging Face Hub, with a model card that includes the evaluation report."""

import re
import tempfile
from pathlib import Path

from .errors import InputError
from .models import GLNet
from .models.hub import CONFIG, WEIGHTS
from .weights import Loaded, save

__all__ = ["push"]

CARD, REPORT_TEXT, REPORT_PAGE = "README.md", "report.md", "report.html"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    loaded: Loaded,
    repository: str,
    *,
    report: str | Path | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a network to a repository of the Hugging Face Hub, in one commit.

    The repository gets the folder of `save`: config.json, model.safetensors and the model card.

    Args:
        loaded: the result of `load`.
        repository: OWNER/NAME; it is created if needed.
        report: folder of a report, such as `reports/val` of a run. Its text becomes a part of the model card, and its
            page a file of the repository.
        private: whether a new repository is private.
        token: access token; None for the one of `hf auth login` or of the variable HF_TOKEN.

    Returns:
        The address of the commit.

    Raises:
        InputError: the name is malformed, there is no such report, the network cannot be saved, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not _NAME.fullmatch(repository):
        raise InputError(f"{repository!r} is not a repository name: expected OWNER/NAME.")
    files: dict[str, bytes | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        card = hub_card(save(loaded, folder), folder, repository, isinstance(loaded.network, GLNet))
        files = {name: (Path(folder) / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    if report is not None:
        text, page = Path(report) / REPORT_TEXT, Path(report) / REPORT_PAGE
        if not text.is_file():
            raise InputError(
                f"{report} contains no {REPORT_TEXT}: expected a folder that `glmix validate` has written."
            )
        card += f"\n## Evaluation\n\n{demoted(text.read_text(encoding='utf-8'))}\n"
        if page.is_file():
            files[REPORT_PAGE] = page.read_bytes()
    files[CARD] = card
    operations = [
        CommitOperationAdd(name, content.encode() if isinstance(content, str) else content)
        for name, content in files.items()
    ]
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, operations, commit_message=f"Upload {repository.partition('/')[2]}")
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The Hub refused {repository} ({reason}): log in with `hf auth login`.") from error
    return str(commit.commit_url)


def hub_card(card: str, folder: str, repository: str, is_backbone: bool) -> str:
    """Convert the model card of a folder to a model card for the Hub.

    Args:
        card: the card of the folder.
        folder: the folder, as it is named in the card.
        repository: OWNER/NAME.
        is_backbone: whether timm and transformers load the network by the name of the repository.
    """
    if is_backbone:
        return card.replace(f"local-dir:{folder}", f"hf-hub:{repository}").replace(folder, repository)
    name = repository.partition("/")[2]
    heading = re.compile(r"^(# .+)$", re.MULTILINE)
    download = f"\\1\n\n`hf download {repository} --local-dir {name}` downloads this folder."
    return heading.sub(download, card.replace(folder, name), count=1)


def demoted(text: str) -> str:
    """Return a Markdown text whose headings are one level lower, without its title."""
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip()
