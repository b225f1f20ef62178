"""`hfseg COMMAND ...`: hands over to the command's own main."""

import gc
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("hfseg.launch", "train a recipe: hfseg train RECIPE.json [--key value ...]"),
    "eval": ("hfseg.eval", "measure a model: hfseg eval MODEL --dataset NAME [--split test] [--output_dir OUT]"),
    "check": ("hfseg.check", "find bad data before training: hfseg check DATASET|FOLDER [--output_dir OUT]"),
    "models": ("hfseg.catalog", "list the models: parameters, input multiple, licence of their weights"),
    "push": ("hfseg.push", "push a run's best model to the Hub: hfseg push RUN_DIR REPO_ID"),
    "study": ("hfseg.study", "train and compare many recipes: hfseg study STUDY.json --output_dir OUT"),
    "report": ("hfseg.report", "a page on runs or studies: hfseg report RUN_OR_STUDY_DIR ... [--output_dir OUT]"),
    "predict": ("hfseg.predict", "segment pictures: hfseg predict MODEL FILE|FOLDER ... [--output_dir OUT]"),
}


HELP = {"-h", "--help"}


def usage() -> str:
    lines = ["usage: hfseg COMMAND ...   (hfseg COMMAND --help: its options)", ""]
    return "\n".join(lines + [f"  {name:9} {text}" for name, (_, text) in COMMANDS.items()])


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        import hfseg

        print(f"hfseg {hfseg.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        from hfseg.errors import near_names

        near = near_names(argv[0], list(COMMANDS))
        print(f"hfseg: error: there is no command {argv[0]!r}; there are {', '.join(COMMANDS)}.{near}", file=sys.stderr)
        return 2
    if HELP & set(argv[1:]) and argv[0] not in ("study", "report"):  # which say more of themselves
        print(f"{COMMANDS[argv[0]][1]}\n", flush=True)
        if argv[0] == "models":
            return 0
    # Thousands of modules make no garbage; not looking for it saves a tenth of the start.
    gc.disable()
    command = importlib.import_module(COMMANDS[argv[0]][0])
    from hfseg.logs import show_errors

    gc.enable()
    return show_errors(command.main, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
