"""What runs in the processes of `Workers`: a program of its own, which knows no jaxrl.

Four kinds of processes, each watching the next:

    the trainer  >  server  >  examiner  >  subject

The *server* (`server.py`) waits for requests and forks an examiner for each; it kills the examiner
and all that came from it when time is up. It never reads a request itself, so nothing that it forks
later finds old answers in its memory. The *examiner* (`examiner.py`) forks its subjects first, and
reads the request afterwards: what a subject would like to know, the tests and the right answers,
has never been in its memory. The *subject* (`subject.py`) runs the completion. All that it can do
is answer the examiner's questions, with plain data (`wire.py`, `remote.py`). The verdict is the
examiner's: nothing that a subject prints, patches or exits with makes one.
"""
