"""How good an explanation is: what a judge is asked, how its replies are read, and figures with intervals.

====================  ============================================================  =======================
scorer                what decides                                                  needs
====================  ============================================================  =======================
``detection``         does a plain text fit the explanation?                        a chat model
``fuzz``              are the marked tokens the ones it is about?                   a chat model
``recall``            ``detection`` on plain windows against random ones            a chat model
``simulation``        how strongly each token fires, told only the explanation      a chat model
``intruder``          which of n windows does not belong (never told the name)      a chat model
``surprisal``         does the explanation make the text easier to predict?         losses of a model
``embedding``         is the explanation nearer to texts that fire?                 vectors
``rule``              does the rule match where the feature fires?                  nothing
====================  ============================================================  =======================

The scorers that ask a chat model are modules of one shape (:class:`raylens.score.scorers.ChatScorer`):
``build_requests`` → the caller sends each :attr:`~raylens.score.questions.Question.request` → ``read_reply`` →
``result``. Nothing here sends, loads or writes.
"""
