import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.fisco.bcos.sdk.v3.BcosSDK;
import org.fisco.bcos.sdk.v3.amop.Amop;
import org.fisco.bcos.sdk.v3.client.Client;

/**
 * Applications of the SDK for FISCO BCOS 3.x that do what the standard input says, one JSON object a line, and report what
 * happens in the same form, as those of 2.x in Peer.java do. They decide nothing and check nothing; the test does.
 */
public final class Peer3x {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private final JsonNode number;
    /** Obeys one command after the other. */
    private final ExecutorService obeying = Executors.newSingleThreadExecutor();
    /** Answers of subscriptions with "hold", which "release" sends. */
    private final List<Runnable> held = new ArrayList<>();
    private BcosSDK sdk;
    private Amop amop;

    private Peer3x(JsonNode number) {
        this.number = number;
    }

    public static void main(String[] arguments) throws Exception {
        Map<JsonNode, Peer3x> peers = new HashMap<>();
        BufferedReader commands =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            JsonNode command = JSON.readTree(line);
            Peer3x peer = peers.computeIfAbsent(command.get("application"), Peer3x::new);
            peer.obeying.execute(() -> peer.tryTo(command));
        }
        System.exit(0);
    }

    private void tryTo(JsonNode command) {
        try {
            obey(command);
        } catch (Throwable failure) {
            failure.printStackTrace();
            report("failed", "command", command, "reason", failure.toString());
        }
    }

    private void obey(JsonNode command) throws Exception {
        String topic = command.path("topic").asText();
        byte[] payload = HEX.parseHex(command.path("payload").asText());
        switch (command.get("do").asText()) {
            case "connect" -> {
                sdk = BcosSDK.build(command.get("config").asText());
                amop = sdk.getAmop();
                report("connected");
            }
            case "subscribe" -> subscribe(topic, command.path("hold").asBoolean());
            case "unsubscribe" -> amop.unsubscribeTopic(topic);
            case "unicast" ->
                    amop.sendAmopMsg(
                            topic,
                            payload,
                            command.get("timeout_ms").asInt(),
                            response ->
                                    report(
                                            "answered",
                                            "id", command.get("id"),
                                            "code", response.getErrorCode(),
                                            "message", response.getErrorMessage(),
                                            "payload", response.getErrorCode() == 0 ? response.getData() : null));
            case "broadcast" -> amop.broadcastAmopMsg(topic, payload);
            case "release" -> {
                synchronized (held) {
                    held.forEach(Runnable::run);
                    held.clear();
                }
            }
            case "get_client" -> report("client", "id", command.get("id"), "answer", client(command));
            case "stop" -> {
                // To stop it leaves its connections open, and silent.
                amop.destroy();
                report("stopped");
            }
            default -> throw new IllegalArgumentException(command.toString());
        }
    }

    /** Reports each message, and answers it with its own payload, if it has one: the SDK sends no empty answers. */
    private void subscribe(String topic, boolean hold) {
        amop.subscribeTopic(
                topic,
                (endpoint, seq, payload) -> {
                    Runnable answer = () -> amop.sendResponse(endpoint, seq, payload);
                    if (hold) {
                        synchronized (held) {
                            held.add(answer);
                        }
                    }
                    // Held before it is told, so that it can be released then.
                    report("received", "topic", topic, "seq", seq, "node", endpoint, "payload", payload);
                    if (!hold && payload.length > 0) {
                        answer.run();
                    }
                });
    }

    private String client(JsonNode command) {
        try {
            Client client = sdk.getClient(command.get("group").asText());
            return client.getBlockNumber().getBlockNumber().toString();
        } catch (Exception failure) {
            return failure.getMessage();
        }
    }

    /** Writes a line; bytes come out in hex. */
    private void report(String event, Object... fields) {
        Map<String, Object> line = new HashMap<>();
        line.put("application", number);
        line.put("event", event);
        for (int index = 0; index < fields.length; index += 2) {
            Object value = fields[index + 1];
            line.put((String) fields[index], value instanceof byte[] bytes ? HEX.formatHex(bytes) : value);
        }
        try {
            OUT.println(JSON.writeValueAsString(line));
        } catch (Exception failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }
}
