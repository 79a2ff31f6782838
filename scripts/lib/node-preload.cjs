// Loaded into Node by NODE_OPTIONS=--require (scripts/run, scripts/env): calls to the guarded hosts
// go through the proxy in INVARIANT_PROXY. Node before 22.21 ignores HTTPS_PROXY, and later ones do
// so without NODE_USE_ENV_PROXY. Everything else stays as it is.
'use strict';

const proxy = process.env.INVARIANT_PROXY;
if (proxy) {
  const net = require('node:net');
  const tls = require('node:tls');
  const { Duplex } = require('node:stream');
  const { hostname, port } = new URL(proxy);
  const own = (process.env.INVARIANT_GUARDED || '').toLowerCase().split(',').filter(Boolean);
  const isGuarded = (host) => {
    const name = String(host || '').toLowerCase().replace(/\.$/, '');
    return /^([a-z0-9-]+\.)?api\.openai\.com$/.test(name) || own.includes(name);
  };

  // What TLS is spoken over: a connection to the proxy, which has been asked for the host. Nothing
  // is sent on it before the proxy has agreed.
  class Tunnel extends Duplex {
    constructor(host, to) {
      super({ allowHalfOpen: false });
      this.socket = net.connect({ host: hostname, port: Number(port) || 80 });
      this.head = Buffer.alloc(0);
      this.ready = new Promise((agree) => { this.agree = agree; });
      this.socket.setNoDelay(true);
      this.socket.on('connect', () => {
        const name = `${host}:${to}`;
        this.socket.write(`CONNECT ${name} HTTP/1.1\r\nHost: ${name}\r\n\r\n`);
      });
      this.socket.on('data', (data) => this.take(data));
      this.socket.on('end', () => this.push(null));
      this.socket.on('error', (error) => this.destroy(error));
      this.socket.on('close', () => this.destroy());
    }

    take(data) {
      if (this.agree === null) {
        if (!this.push(data)) this.socket.pause();
        return;
      }
      this.head = Buffer.concat([this.head, data]);
      const end = this.head.indexOf('\r\n\r\n');
      if (end < 0) {
        if (this.head.length > 65536) this.destroy(new Error('the proxy made no sense'));
        return;
      }
      if (!/^HTTP\/1\.[01] 200/.test(this.head.toString('latin1', 0, 12))) {
        const line = this.head.toString('latin1').split('\r\n', 1)[0];
        this.destroy(new Error(`the proxy refused to connect: ${line}`));
        return;
      }
      const rest = this.head.subarray(end + 4);
      const agree = this.agree;
      this.agree = null;
      if (rest.length) this.push(rest);
      agree();
    }

    _read() { this.socket.resume(); }

    _write(data, encoding, done) {
      if (this.agree === null) this.socket.write(data, encoding, done);
      else this.ready.then(() => this.socket.write(data, encoding, done));
    }

    _final(done) { this.socket.end(done); }

    _destroy(error, done) { this.socket.destroy(); done(error); }

    // What callers do with a socket.
    setTimeout(...given) { this.socket.setTimeout(...given); return this; }
    setNoDelay(...given) { this.socket.setNoDelay(...given); return this; }
    setKeepAlive(...given) { this.socket.setKeepAlive(...given); return this; }
    ref() { this.socket.ref(); return this; }
    unref() { this.socket.unref(); return this; }
  }

  const connect = tls.connect;
  tls.connect = function (...given) {
    // (options[, callback]) | (port[, host][, options][, callback])
    const callback = given.find((one) => typeof one === 'function');
    const options = { ...given.find((one) => one !== null && typeof one === 'object') };
    if (typeof given[0] === 'number' || typeof given[0] === 'string') options.port = given[0];
    if (typeof given[1] === 'string') options.host = given[1];
    const host = options.host || options.hostname || options.servername;
    if (options.socket || options.path || !(isGuarded(host) || isGuarded(options.servername))) {
      return connect.apply(this, given);
    }
    options.socket = new Tunnel(host, options.port || 443);
    options.servername = options.servername || host;
    return connect.call(this, options, callback);
  };
}
