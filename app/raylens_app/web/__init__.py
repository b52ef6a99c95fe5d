"""The analyst's Streamlit app: pages over a workspace's views and, where they are up, its services.

::

    script/        the script Streamlit runs: nothing but frame.run()
    launch.py      ``raylens app``: settings of the server, its start and its end
    settings.py    what the launcher tells the pages: workspace, services, whether to ask for a login
    frame.py       what stands around every page: navigation, login, the state of the workspace, errors
    registry.py    the list of pages, a line each, and how one leads to another
    desk.py        what every page works with: readers of the workspace, shared by all sessions
    services.py    the HTTP services: where they are, how they are, and what to do where they are down
    theme.py       all colours, and the style sheet of what the app draws itself
    tokens.py      text with its tokens shaded: the one place where text of a corpus becomes HTML
    plain.py       text of others where Streamlit reads Markdown
    charts.py      charts, each with a title and units
    states.py      empty, loading and failed: each says what to do
    numbers.py     figures as people read them
    rows.py        tables of which a row can be chosen
    pages/         a file a page; ``show(desk)`` draws it
    supported.py   models whose features can be read, wherever a page has nothing else to show
    feature/       parts of the Feature page
    traces/        parts of the Traces page
    query/         parts of the SQL page: editor, the query under way, its result

State lives in the address: widgets are bound to query parameters, so that a link restores a view and two sessions
share nothing. What is kept between runs is keyed by what is stored, never by who asks. Nothing here imports torch,
ray or transformers.
"""
