"""A classifier behind HTTP: `verbs/serve.py` puts the parts together.

listening    the address, taken before anything large is loaded
connection   deadlines and numbers of connections: what a slow or greedy client may hold
guard        everything about a request that is refused before the application sees it
decoders     images decoded in processes of their own, so that none can end the server
batches      decoded images, answered in batches by one thread
counters     what /metrics tells
app          the routes
page         the page at /
server       start, reload and stop
"""
