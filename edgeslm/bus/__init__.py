"""The bus: what goes over MQTT (``protocol``) and the connection that carries it (``client``).

Empty on purpose: importing ``edgeslm.bus.protocol`` must not import the MQTT client.
"""
