"""Federated runs on Flower: a server hands out the ready tasks of a plan, participants carry them out at home.

app           the Flower app: what a message says, on both sides       imports flwr
executor      participants that stay warm between two tasks            imports flwr
conductor     the server's table: who does what next, what has come in
participant   carries out its node's rows, as the torch runtime does
mail          a participant's messages, as they lie in Flower's
local         a SuperLink and its SuperNodes as processes of this machine
"""
