"""The composition root: the one place that builds the parts of a fleet and hands them to each other.

Each module builds what one kind of process needs, and imports no more than that: a replica that runs
agents should not take a second of processor time to import a database's or a vendor's client. In one
process all of them are called (``runtime.local``); on Ray each deployment calls its own.
"""
