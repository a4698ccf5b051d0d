"""The smallest graph that answers: one node that calls the model and streams its answer."""

import os

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

model = ChatOpenAI(model="scripted", base_url=os.environ["PROVIDER_URL"], api_key="none", max_retries=0)


async def answer(state: MessagesState) -> dict[str, list]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()
