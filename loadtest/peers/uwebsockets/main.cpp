// uWebSockets with the command line of Wirelane's examples:
//
//   uwebsockets --mode echo|broadcast|relay|subscribe [--topics N] [--listen ADDR:PORT]
//               [--deflate off|shared|dedicated] [--tls-cert FILE --tls-key FILE]
//
// Limits and timeouts are those that the examples have by default.

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>
#include <unistd.h>
#include <unordered_set>

#include "App.h"

namespace {

struct Options {
    std::string mode = "echo";
    std::string host = "127.0.0.1";
    int port = 9001;
    int topics = 100;
    uWS::CompressOptions compression = uWS::DISABLED;
    std::string certificate, key;
};

[[noreturn]] void wrong(const std::string &what) {
    std::cerr << what << std::endl;
    exit(2);
}

Options parse(int count, char **words) {
    Options options;
    for (int index = 1; index < count; index += 2) {
        std::string name = words[index];
        if (index + 1 == count) wrong(name + ": a value is missing");
        std::string value = words[index + 1];
        if (name == "--mode") {
            options.mode = value;
        } else if (name == "--topics") {
            options.topics = atoi(value.c_str());
        } else if (name == "--listen") {
            size_t colon = value.rfind(':');
            if (colon == std::string::npos) wrong("--listen takes ADDR:PORT");
            options.host = value.substr(0, colon);
            options.port = atoi(value.c_str() + colon + 1);
        } else if (name == "--deflate") {
            if (value == "shared") {
                options.compression =
                    uWS::CompressOptions(uWS::SHARED_COMPRESSOR | uWS::SHARED_DECOMPRESSOR);
            } else if (value == "dedicated") {
                options.compression =
                    uWS::CompressOptions(uWS::DEDICATED_COMPRESSOR | uWS::DEDICATED_DECOMPRESSOR);
            } else if (value != "off") {
                wrong("--deflate takes off, shared or dedicated");
            }
        } else if (name == "--tls-cert") {
            options.certificate = value;
        } else if (name == "--tls-key") {
            options.key = value;
        } else {
            wrong("unknown option " + name);
        }
    }
    return options;
}

struct Session {
    bool has_sent = false;
};

template <bool SSL>
int serve(uWS::TemplatedApp<SSL> &&app, const Options &options) {
    using Peer = uWS::WebSocket<SSL, true, Session>;
    // Only the relay keeps it.
    static std::unordered_set<Peer *> peers;
    static uWS::TemplatedApp<SSL> *self = &app;
    static const int topics = options.topics;
    static const bool compress = options.compression != uWS::DISABLED;

    typename uWS::TemplatedApp<SSL>::template WebSocketBehavior<Session> behavior;
    behavior.compression = options.compression;
    behavior.maxPayloadLength = 16 * 1024 * 1024;
    behavior.maxBackpressure = 16 * 1024 * 1024;
    behavior.idleTimeout = 120;
    behavior.sendPingsAutomatically = true;
    if (options.mode == "echo") {
        behavior.message = [](Peer *ws, std::string_view message, uWS::OpCode opcode) {
            ws->send(message, opcode, compress);
        };
    } else if (options.mode == "broadcast") {
        behavior.open = [](Peer *ws) { ws->subscribe("everybody"); };
        behavior.message = [](Peer *, std::string_view message, uWS::OpCode opcode) {
            self->publish("everybody", message, opcode, compress);
        };
    } else if (options.mode == "relay") {
        behavior.open = [](Peer *ws) { peers.insert(ws); };
        behavior.close = [](Peer *ws, int, std::string_view) { peers.erase(ws); };
        behavior.message = [](Peer *ws, std::string_view message, uWS::OpCode opcode) {
            for (Peer *peer : peers) {
                if (peer != ws) peer->send(message, opcode, compress);
            }
        };
    } else if (options.mode == "subscribe") {
        // From the second message on.
        behavior.message = [](Peer *ws, std::string_view message, uWS::OpCode opcode) {
            if (ws->getUserData()->has_sent) {
                for (int number = 0; number < topics; number++) {
                    ws->subscribe("topic-" + std::to_string(number));
                }
            }
            ws->getUserData()->has_sent = true;
            ws->send(message, opcode, compress);
        };
    } else {
        wrong("--mode takes echo, broadcast, relay or subscribe");
    }
    bool listening = false;
    app.template ws<Session>("/*", std::move(behavior))
        .listen(options.host, options.port, [&](auto *socket) {
            if (!socket) return;
            listening = true;
            int port = us_socket_local_port(SSL, reinterpret_cast<us_socket_t *>(socket));
            std::cout << "listening on " << (SSL ? "wss://" : "ws://") << options.host << ':'
                      << port << '/' << std::endl;
        });
    if (!listening) {
        std::cerr << "cannot listen on " << options.host << ':' << options.port << std::endl;
        return 1;
    }
    app.run();
    return 0;
}

} // namespace

int main(int count, char **words) {
    // One thread only: a second one, to wait for signals, would make every system call on a
    // descriptor dearer.
    signal(SIGTERM, [](int) { _exit(0); });
    signal(SIGINT, [](int) { _exit(0); });
    Options options = parse(count, words);
    if (options.certificate.empty() != options.key.empty()) {
        wrong("--tls-cert and --tls-key go together");
    }
    if (options.certificate.empty()) {
        return serve<false>(uWS::App(), options);
    }
    uWS::SocketContextOptions tls;
    tls.cert_file_name = options.certificate.c_str();
    tls.key_file_name = options.key.c_str();
    return serve<true>(uWS::SSLApp(tls), options);
}
