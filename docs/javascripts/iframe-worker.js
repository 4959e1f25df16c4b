// Browsers start no workers from pages on disk (file://). There, the search runs in a hidden frame, which has the
// interface of a worker. On a server, this file does nothing.
(() => {
  if (location.protocol !== "file:") return;

  class IFrameWorker extends EventTarget {
    #frame = document.createElement("iframe");
    #waiting = [];
    #ready = false;

    constructor(url) {
      super();
      this.#frame.hidden = true;
      this.#frame.addEventListener("load", () => this.#start(String(url)), { once: true });
      document.body.append(this.#frame);
    }

    #start(url) {
      const inner = this.#frame.contentWindow;
      inner.postMessage = (data) =>
        setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })));
      inner.importScripts = (...urls) =>
        urls.reduce((earlier, next) => earlier.then(() => this.#load(next)), Promise.resolve());
      this.#load(url).then(() => {
        this.#ready = true;
        for (const data of this.#waiting.splice(0)) this.postMessage(data);
      });
    }

    #load(url) {
      return new Promise((resolve, reject) => {
        const inner = this.#frame.contentDocument;
        const script = inner.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = () => reject(new Error(`cannot load ${url}`));
        inner.body.append(script);
      });
    }

    postMessage(data) {
      if (!this.#ready) {
        this.#waiting.push(data);
        return;
      }
      const inner = this.#frame.contentWindow;
      inner.dispatchEvent(new inner.MessageEvent("message", { data: inner.structuredClone(data) }));
    }

    terminate() {
      this.#frame.remove();
    }
  }

  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
})();
