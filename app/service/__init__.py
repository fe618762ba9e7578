"""What the app can do: pure functions of a workbench and a request that return plain JSON values.

They hold no state of any user, may be called from several threads, and a number that is not
defined is None. A mistake raises RequestError with one sentence that says what to do.
"""
