"""Runs a function in a separate process, which isolates its memory, failures and hangs."""

from multiprocessing import get_context

from bench.common.timing import CUDA, first_line

# Without a GPU, each is forked from a server that has imported the script once. CUDA does not survive a fork.
CONTEXT = get_context("spawn" if CUDA else "forkserver")


def _answer(connection, function, arguments):
    try:
        answer = True, function(*arguments)
    except Exception as error:
        answer = False, first_line(error)
    connection.send(answer)


def isolated(function, *arguments, seconds=None):
    """The result of the function, called in a separate process. Function, arguments and result must be picklable.

    Raises RuntimeError with its error or the end of its process, and TimeoutError after `seconds`.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise TimeoutError(f"not done in {seconds:.0f} s")
        fine, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if not fine:
        raise RuntimeError(result)
    return result
