"""How a binary begins and ends: flags parsed, errors in one sentence, exit codes."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import absl.logging
import jax
from absl import app, flags

from mtrl_jax import processes

from . import compile_cache

__all__ = ["INTERRUPTED", "command", "main", "refuse", "stop"]

INTERRUPTED = 130  # exit code after Ctrl-C, by convention
CLOSED_PIPE = 141  # and where nobody reads the output any more
HELP = {"-h", "-help", "--help", "-?", "--helpshort"}
FULL_HELP = {"-helpfull", "--helpfull"}


def command(name: str) -> str:
    """How a user starts a binary: from a checkout, or where the library is installed."""
    package = __name__.rpartition(".common.")[0]
    return f"python -m {package}.{name}" if package == "experiments" else f"mtrl {name}"


def refuse(*names: str) -> None:
    """For a binary that uses most of the flags that it imports, but not these.

    Raises:
      ValueError: if one was given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} means nothing here")


def stop(step: int, folder: pathlib.Path) -> NoReturn:
    """Ends a run that was asked to stop, by Ctrl-C or SIGTERM, and has saved."""
    if processes.is_chief():
        print(f"Stopped at step {step:,}; saved. The same command continues: {folder}")
    sys.exit(INTERRUPTED)


def main(fn: Callable[[], None]) -> None:
    """Parses flags and runs `fn`. Bad input, and a suite whose library is not installed, end in
    one sentence and exit code 2."""

    def parse(argv: Sequence[str]) -> list[str]:
        if asked := {*argv[1:]} & (HELP | FULL_HELP):
            _help(full=bool(asked & FULL_HELP))
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise flags.Error(f"unexpected argument {rest[1]!r}; flags start with --")
            _check_not_empty()
            return rest
        except flags.Error as error:
            _fail(str(error), 2)
            raise

    def guarded(argv: Sequence[str]) -> None:
        _hush()
        compile_cache.start()
        try:
            fn()
            sys.stdout.flush()
        except (ValueError, ImportError) as error:
            _fail(str(error), 2)
        except BrokenPipeError:  # of `| head`: nobody reads, so nothing is said
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
            sys.exit(CLOSED_PIPE)
        except FloatingPointError as error:
            _fail(str(error), 1)
        except OSError as error:
            _end(str(error))
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            _end(
                "another process of this run has ended or cannot be reached; the same commands "
                f"continue from the last checkpoint ({str(error)[:300]})"
            )
        except KeyboardInterrupt:
            print("Stopped; the same command continues from the last checkpoint.", file=sys.stderr)
            sys.exit(INTERRUPTED)

    app.run(guarded, flags_parser=parse)


def _check_not_empty() -> None:
    """Text that stands for a default of its own where it is left out may not be empty."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if flag.present and flag.default is None and flag.value == "":
            raise flags.Error(f"--{name} must not be empty")


def _hush() -> None:
    """What Orbax cannot write is raised too, and told in one sentence: no tracebacks before it, of
    its log or of threads of TensorStore that come too late to be heard."""
    absl.logging.get_absl_logger().addFilter(
        lambda record: not (record.exc_info and "orbax" in record.pathname)
    )

    def unraisable(problem: Any) -> None:
        if str(problem.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(problem)

    sys.unraisablehook = unraisable


def _help(*, full: bool) -> NoReturn:
    """What the binary is and its flags, or those of the libraries too; exit code 0."""
    about = (sys.modules["__main__"].__doc__ or "").strip()
    known = flags.FLAGS.get_help() if full else flags.FLAGS.main_module_help()
    print(about.replace("python -m experiments.", command("")))
    print("\nFlags:" + known.partition(":")[2] if not full else known)
    sys.exit(0)


def _end(message: str) -> NoReturn:
    """Exit code 1 at once: what libraries still want to write or to tell other processes would end
    in tracebacks, or never. What their threads log meanwhile does not come behind the sentence."""
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(stderr, ("error: " + " ".join(message.split()) + "\n").encode())
    os._exit(1)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
