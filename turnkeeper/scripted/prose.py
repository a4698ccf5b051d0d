"""What the scripted provider says without directives: short answers about Turnkeeper.

The answer is chosen by the words of the question, so a demonstration needs no model and no network.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Topic:
    """An answer, and the stems of the words that select it."""

    stems: tuple[str, ...]
    text: str


_TOPICS: Final = (
    Topic(
        (
            "config",
            "provider",
            "anthropic",
            "openai",
            "vllm",
            "ollama",
            "llama",
            "real",
            "key",
            "model",
            "setup",
            "set",
        ),
        """\
I am only the scripted provider: I answer from a script, so that everything around me can be tried \
without a model. To talk to a real one, set these variables and start Turnkeeper again.

For **Anthropic**:

```sh
MCP_LLM_PROVIDER=anthropic
ANTHROPIC_API_KEY=your-key
```

`ANTHROPIC_MODEL` and `ANTHROPIC_BASE_URL` are there when you need another model or a gateway.

For anything that speaks **OpenAI's chat completions**, such as vLLM, llama.cpp, Ollama, LiteLLM or \
OpenAI itself:

```sh
MCP_LLM_PROVIDER=openai-compatible
MCP_LLM_BASE_URL=http://127.0.0.1:8000/v1
MCP_LLM_MODEL=your-model
MCP_LLM_API_KEY=your-key
```

Two more decide what the bill says: `MCP_LLM_PRICE_INPUT_PER_M_USD` and \
`MCP_LLM_PRICE_OUTPUT_PER_M_USD`, in dollars per million tokens. While both are zero, budgets count \
nothing, and the log says so at startup. A configuration that cannot work is refused at once, with every \
problem in one message.""",
    ),
    Topic(
        ("stop", "cancel", "abort", "halt", "interrupt"),
        """\
**Stop** ends a turn in whatever phase it is: queued, connecting, waiting for the first token, in the \
middle of a sentence, or waiting to retry.

1. The request is written to the turn's row first, so it cannot be lost.
2. An abort flag and a nudge in Redis tell the worker within milliseconds. If Redis is away, the next \
renewal of the worker's lease reads it from the row.
3. The worker closes the connection to the provider at once, and the provider stops generating.

What you had read stays: the partial text is stored as the message, and the tokens that were used are \
billed, no more and no less. A Stop names its turn, so one that comes late never hits the next turn. You \
can try it on this very answer.""",
    ),
    Topic(
        (
            "die",
            "dies",
            "died",
            "crash",
            "kill",
            "fail",
            "lost",
            "lose",
            "recover",
            "restart",
            "deploy",
            "worker",
            "durab",
        ),
        """\
Nothing that was accepted is lost. When you get your answer `202`, the message and the turn are \
committed in PostgreSQL; the queue is only a doorbell.

A worker holds a *lease* on the turn, ten seconds long, and renews it every three. If the worker dies:

- the lease runs out, and the sweeper of another worker gives the turn back to the queue;
- the next attempt gets a higher number, and that number fences the old worker out, so a process that \
was merely asleep cannot write when it wakes;
- text that you had already seen is either continued or declared void by a `message_reset`, never \
silently mixed.

After three attempts the turn fails with `worker_lost` and keeps its partial text. During a deploy, \
workers finish what they can within the grace period and hand the rest over.""",
    ),
    Topic(
        (
            "cost",
            "price",
            "bill",
            "money",
            "budget",
            "token",
            "usage",
            "ledger",
            "pay",
            "spend",
            "hold",
            "cheap",
            "dollar",
        ),
        """\
Cost is counted from the tokens that the provider reports, in classes that do not overlap: input, cache \
reads, cache writes and output. Prices are exact decimals per million tokens, and each ledger row keeps \
the price that it used.

- Accepting a turn takes a **hold**, the most that it can cost, out of what the budget has left. Many \
requests at once therefore cannot pass the limit together.
- The length of the answer is limited to what the hold pays for.
- Settling replaces the hold by the real cost, exactly once, whatever dies.

A stopped turn is billed for what was consumed, and `usage_source` says who counted: `provider`, \
`partial` or `estimated`. A budget of `0` allows nothing; no budget is no limit.""",
    ),
    Topic(
        (
            "resum",
            "reload",
            "reconnect",
            "stream",
            "websocket",
            "sse",
            "event",
            "cursor",
            "offline",
            "disconnect",
            "tab",
        ),
        """\
Close the page in the middle of this answer and open it again: it goes on where you are.

Every event of a turn has a number, `seq`, that rises by exactly one. A reader reconnects with the last \
number it saw, as `after` on the websocket or `Last-Event-ID` with server-sent events:

```json
{"op": "subscribe", "session_id": "…", "after": 41}
```

It gets what it missed, then `caught_up`, then what is new. If the log no longer reaches back that far, \
a `gap` is announced and a `snapshot` of the whole text follows; there is never a silent hole. The last \
event is always `done`, and it carries the SHA-256 of the stored text, so a reader can prove that it has \
all of it.""",
    ),
    Topic(
        ("tenan", "organi", "secur", "isolat", "privat", "rls", "row", "permission", "access", "secret"),
        """\
Organizations are kept apart by the database itself, not by good intentions.

- Every table of an organization has **row-level security**, enabled and forced, for reading and for \
writing.
- The application's role owns nothing and cannot bypass it; Turnkeeper refuses to start otherwise.
- The organization is set for one transaction at a time, so a pooled connection carries nothing over.

Workers take the organization from the turn's row, never from a message. Sessions belong to a user, and \
to a stranger they do not exist: the answer is `404`. API keys are stored as hashes and shown once; logs \
hold no keys and no text.""",
    ),
    Topic(
        (
            "turn",
            "session",
            "message",
            "attempt",
            "work",
            "queue",
            "redis",
            "celery",
            "postgres",
            "architect",
            "design",
        ),
        """\
A **turn** is one message of yours and its answer. It is the unit of everything here: it is queued, \
leased, stopped and billed as a whole.

| status | meaning |
|---|---|
| `queued` | committed, waiting for a worker |
| `running` | a worker holds its lease |
| `stopping` | Stop was asked for |
| `completed`, `stopped`, `failed`, `expired` | over, and it says why |

The web process only accepts it. A worker calls the provider and publishes each piece of text through \
Redis to the relay, which you are reading now. PostgreSQL is the truth: Redis may lose everything at any \
moment, and your turn still ends with its text, its cost and one `done`.""",
    ),
    Topic(
        ("script", "directive", "test", "who", "what", "demo", "help"),
        """\
I am the scripted provider that comes with Turnkeeper. I speak real HTTP and stream like a model does, \
but I understand nothing: I look at a few words of your question and answer from a page.

You can direct me from inside your message:

- `[[tokens=200 rate=50]]` is an answer of two hundred words, fifty a second;
- `[[tokens=50 rate=20 hang=10]]` falls silent after ten, which is a good moment to press Stop;
- `[[tokens=50 rate=20 cut=25 fail_times=1]]` breaks the connection the first time and is well the second.

Ask me what a turn is, how Stop works, what happens when a worker dies, how cost is counted, how streams \
resume, or how to configure a real provider.""",
    ),
)

_GENERAL: Final = """\
Hello! I am the scripted provider, so this answer was written long before your question. No model is \
connected yet, but all the rest is real: your message was committed, queued, taken by a worker, and is \
now streamed to you word by word.

You could ask me:

- what a *turn* is
- how **Stop** works, and what a stopped answer costs
- what happens when a worker dies in the middle of a sentence
- how cost is counted
- how to configure a real provider

For a real model, set `MCP_LLM_PROVIDER` with `ANTHROPIC_API_KEY`, or with `MCP_LLM_BASE_URL`, \
`MCP_LLM_MODEL` and `MCP_LLM_API_KEY`, and start again."""

_WORD: Final = re.compile(r"[a-z]+")


def reply(question: str) -> str:
    """Return the answer, in Markdown, that fits `question` best; it is always the same for the same question."""
    asked = _WORD.findall(question.lower())
    scores = [sum(any(word.startswith(stem) for stem in topic.stems) for word in asked) for topic in _TOPICS]
    best = max(scores)
    return _TOPICS[scores.index(best)].text if best else _GENERAL
