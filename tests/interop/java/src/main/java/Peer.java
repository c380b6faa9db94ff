import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.netty.channel.ChannelHandlerContext;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.Security;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.math.BigInteger;
import java.util.LinkedHashMap;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.fisco.bcos.sdk.BcosSDK;
import org.fisco.bcos.sdk.amop.Amop;
import org.fisco.bcos.sdk.amop.AmopCallback;
import org.fisco.bcos.sdk.amop.AmopMsgOut;
import org.fisco.bcos.sdk.amop.AmopResponse;
import org.fisco.bcos.sdk.amop.AmopResponseCallback;
import org.fisco.bcos.sdk.amop.topic.AmopMsgIn;
import org.fisco.bcos.sdk.amop.topic.TopicType;
import org.fisco.bcos.sdk.channel.ResponseCallback;
import org.fisco.bcos.sdk.client.Client;
import org.fisco.bcos.sdk.client.protocol.request.Transaction;
import org.fisco.bcos.sdk.crypto.keypair.CryptoKeyPair;
import org.fisco.bcos.sdk.eventsub.EventCallback;
import org.fisco.bcos.sdk.eventsub.EventLogParams;
import org.fisco.bcos.sdk.eventsub.EventSubscribe;
import org.fisco.bcos.sdk.channel.model.Options;
import org.fisco.bcos.sdk.crypto.keystore.KeyTool;
import org.fisco.bcos.sdk.crypto.keystore.P12KeyStore;
import org.fisco.bcos.sdk.crypto.keystore.PEMKeyStore;
import org.fisco.bcos.sdk.model.AmopMsg;
import org.fisco.bcos.sdk.model.EventLog;
import org.fisco.bcos.sdk.model.JsonRpcResponse;
import org.fisco.bcos.sdk.model.MsgType;
import org.fisco.bcos.sdk.model.Response;
import org.fisco.bcos.sdk.transaction.manager.AssembleTransactionProcessor;
import org.fisco.bcos.sdk.transaction.manager.TransactionProcessorFactory;

/**
 * Applications of the SDK that do what the standard input says, one JSON object a line, and report what happens
 * in the same form. Each application has a number, and its own connections. They decide nothing and check
 * nothing; the test does.
 */
public final class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final HexFormat HEX = HexFormat.of();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    /** How a payload begins that is a file: the SDK's demos write the number -128. */
    private static final int FILE_MAGIC = -128;

    private final JsonNode number;
    /** Obeys one command after the other. */
    private final ExecutorService obeying = Executors.newSingleThreadExecutor();
    /** Callbacks of subscriptions with "hold" return when this opens. */
    private final CountDownLatch released = new CountDownLatch(1);
    private BcosSDK sdk;
    private Amop amop;
    private Client client;

    private Peer(JsonNode number) {
        this.number = number;
    }

    public static void main(String[] arguments) throws Exception {
        if (Boolean.getBoolean("fisco.netty.enable.openssl.provider")) {
            // The SDK's own OpenSSL leaves certificates to Java, whose SunEC has no secp256k1 since Java 16.
            Security.insertProviderAt(new BouncyCastleProvider(), 3);
        }
        Map<JsonNode, Peer> peers = new HashMap<>();
        BufferedReader commands =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            JsonNode command = JSON.readTree(line);
            Peer peer = peers.computeIfAbsent(command.get("application"), Peer::new);
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
        AmopCallback receiver = new Receiver(command.path("hold").asBoolean());
        switch (command.get("do").asText()) {
            case "connect" -> {
                sdk = BcosSDK.build(command.get("config").asText());
                amop = sdk.getAmop();
                report("connected", "nodes", sdk.getChannel().getAvailablePeer());
            }
            // For topics of the configuration, which have no callback of their own.
            case "receive" -> amop.setCallback(receiver);
            case "subscribe" -> amop.subscribeTopic(topic, receiver);
            // The SDK takes this, and then answers nothing.
            case "subscribe_without_callback" -> amop.subscribeTopic(topic, null);
            case "subscribe_privately" -> {
                JsonNode key = command.get("key");
                if (key.has("hex")) {
                    amop.subscribePrivateTopics(topic, key.get("hex").asText(), receiver);
                } else {
                    amop.subscribePrivateTopics(topic, keyFile(key), receiver);
                }
            }
            case "publish_privately" -> {
                List<String> hex = new ArrayList<>();
                List<KeyTool> files = new ArrayList<>();
                for (JsonNode key : command.get("keys")) {
                    if (key.has("hex")) {
                        hex.add(key.get("hex").asText());
                    } else {
                        files.add(keyFile(key));
                    }
                }
                if (files.isEmpty()) {
                    amop.publishPrivateTopicWithHexPublicKeyList(topic, hex);
                } else {
                    amop.publishPrivateTopic(topic, files);
                }
            }
            case "unsubscribe" -> amop.unsubscribeTopic(topic);
            case "unicast" -> amop.sendAmopMsg(message(command, topic, payload), new Answers(command));
            case "broadcast" -> amop.broadcastAmopMsg(message(command, topic, payload));
            case "send_file" -> {
                String name = command.get("name").asText();
                amop.sendAmopMsg(message(command, topic, file(name, payload)), new Answers(command));
            }
            case "send_frame" -> sendFrame(command, topic, payload);
            case "release" -> released.countDown();
            case "nodes" -> report("nodes", "nodes", sdk.getChannel().getAvailablePeer());
            case "open_ledger" -> {
                client = sdk.getClient(1);
                client.getGroupManagerService()
                        .registerBlockNotifyCallback(
                                (peer, info) ->
                                        report(
                                                "block",
                                                "group", info.getGroupId(),
                                                "number", info.getBlockNumber()));
                report("ledger_opened", "version", client.getClientNodeVersion().getResult());
            }
            case "ask_ledger" -> report("ledger_answered", "id", command.get("id"), "answers", askLedger(command));
            case "block_number" ->
                    report("block_number", "id", command.get("id"), "answer", answer(client::getBlockNumber));
            case "transact" -> report("transacted", "id", command.get("id"), "answers", transact(command));
            case "subscribe_event" -> subscribeEvent(command);
            case "unsubscribe_event" ->
                    sdk.getEventSubscribe(1)
                            .unsubscribeEvent(
                                    command.get("registration").asText(),
                                    new Logs(command.get("name").asText() + ", ended"));
            case "get_peers" -> report("peers", "peers", sdk.getClient(1).getPeers().getPeers());
            case "stop" -> {
                sdk.stopAll();
                report("stopped");
            }
            default -> throw new IllegalArgumentException(command.toString());
        }
    }

    private interface Question {
        Object ask() throws Exception;
    }

    /** What a method of the SDK gives; of JSON-RPC without the ids, which the SDK counts. */
    private static Object answer(Question question) {
        Map<String, Object> answer = new LinkedHashMap<>();
        try {
            Object given = question.ask();
            if (given instanceof JsonRpcResponse<?> response) {
                answer.put("result", response.getResult());
                answer.put("error", response.getError());
            } else {
                answer.put("given", given);
            }
            // Here, so that what cannot be shown is told, too.
            return JSON.readTree(JSON.writeValueAsString(answer));
        } catch (Exception failure) {
            // But for the seq, which is drawn at random.
            String message = String.valueOf(failure.getMessage()).replaceAll("seq:\\p{XDigit}+", "seq");
            return Map.of("failure", failure.getClass().getName() + ": " + message);
        }
    }

    /** Each method of the client that asks for something. */
    private Map<String, Object> askLedger(JsonNode command) {
        String peer = sdk.getChannel().getAvailablePeer().get(0);
        String hash = command.get("hash").asText();
        String address = command.get("address").asText();
        BigInteger one = BigInteger.ONE;
        Map<String, Question> questions = new LinkedHashMap<>();
        questions.put("getBlockNumber", client::getBlockNumber);
        questions.put("getBlockNumber of a peer", () -> client.getBlockNumber(1, peer));
        questions.put("getCode", () -> client.getCode(address));
        questions.put("getTotalTransactionCount", client::getTotalTransactionCount);
        questions.put("getBlockByHash", () -> client.getBlockByHash(hash, true));
        questions.put("getBlockByNumber", () -> client.getBlockByNumber(one, true));
        questions.put("getBlockHashByNumber", () -> client.getBlockHashByNumber(one));
        questions.put("getBlockHeaderByNumber", () -> client.getBlockHeaderByNumber(one, true));
        questions.put("getTransactionByHash", () -> client.getTransactionByHash(hash));
        questions.put(
                "getTransactionByBlockNumberAndIndex",
                () -> client.getTransactionByBlockNumberAndIndex(one, BigInteger.ZERO));
        questions.put("getTransactionReceipt", () -> client.getTransactionReceipt(hash));
        questions.put("getPendingTransaction", client::getPendingTransaction);
        questions.put("getPendingTxSize", client::getPendingTxSize);
        questions.put("getBlockLimit", client::getBlockLimit);
        questions.put("getGroupList", client::getGroupList);
        questions.put("getGroupList of a peer", () -> client.getGroupList(peer));
        questions.put("getGroupPeers", client::getGroupPeers);
        questions.put("getPeers", client::getPeers);
        questions.put("getNodeInfo", () -> client.getNodeInfo(peer));
        questions.put("getNodeIDList", client::getNodeIDList);
        questions.put("getObserverList", client::getObserverList);
        questions.put("getSealerList", client::getSealerList);
        questions.put("getPbftView", client::getPbftView);
        questions.put("getNodeVersion", () -> client.getNodeVersion(peer));
        questions.put("getSystemConfigByKey", () -> client.getSystemConfigByKey("tx_count_limit"));
        // Of which the node knows nothing.
        questions.put("queryGroupStatus", () -> client.queryGroupStatus(1));
        questions.put("getTransactionByHashWithProof", () -> client.getTransactionByHashWithProof(hash));
        questions.put("call", () -> client.call(new Transaction(address, address, "0x6d4ce63c")));
        Map<String, Object> answers = new LinkedHashMap<>();
        questions.forEach((name, question) -> answers.put(name, answer(question)));
        return answers;
    }

    /** Deploys a contract, sends it a transaction, and calls it. */
    private Map<String, Object> transact(JsonNode command) throws Exception {
        String abi = command.get("abi").asText();
        CryptoKeyPair account = client.getCryptoSuite().createKeyPair();
        AssembleTransactionProcessor processor =
                TransactionProcessorFactory.createAssembleTransactionProcessor(client, account);
        Map<String, Object> answers = new LinkedHashMap<>();
        answers.put("deploy", answer(() -> processor.deployAndGetResponse(abi, "6080", new ArrayList<>())));
        String to = command.get("address").asText();
        answers.put(
                "transaction",
                answer(() -> processor.sendTransactionAndGetResponse(to, abi, "set", List.of(BigInteger.TEN))));
        answers.put(
                "receipt",
                answer(() -> processor.sendTransactionAndGetReceipt(to, "0x60fe47b1", account)));
        answers.put("call", answer(() -> processor.sendCall(to, to, abi, "get", new ArrayList<>())));
        return answers;
    }

    /** Reports the logs of events that come from a block on. */
    private void subscribeEvent(JsonNode command) {
        EventLogParams parameters = new EventLogParams();
        parameters.setFromBlock(command.get("from").asText());
        parameters.setToBlock(command.get("to").asText());
        parameters.setAddresses(new ArrayList<>());
        parameters.setTopics(new ArrayList<>());
        EventSubscribe events = sdk.getEventSubscribe(1);
        // Not started: its timer would register the filter a second time if it ran just now.
        String registration = events.subscribeEvent(parameters, new Logs(command.get("name").asText()));
        report("event_subscribed", "registration", registration);
    }

    private final class Logs implements EventCallback {
        private final String name;

        Logs(String name) {
            this.name = name;
        }

        @Override
        public void onReceiveLog(int status, List<EventLog> logs) {
            report("logs", "name", name, "status", status, "logs", logs);
        }
    }

    private static KeyTool keyFile(JsonNode key) {
        if (key.has("p12")) {
            return new P12KeyStore(key.get("p12").asText(), key.get("password").asText());
        }
        return new PEMKeyStore(key.get("pem").asText());
    }

    private static AmopMsgOut message(JsonNode command, String topic, byte[] payload) {
        AmopMsgOut message = new AmopMsgOut();
        if (command.path("private").asBoolean()) {
            message.setType(TopicType.PRIVATE_TOPIC);
        }
        message.setTopic(topic);
        message.setContent(payload);
        if (command.has("timeout_ms")) {
            message.setTimeout(command.get("timeout_ms").asLong());
        }
        return message;
    }

    /** Sends a frame below the AMOP interface, which hides the data of an answer that is not 0. */
    private void sendFrame(JsonNode command, String topic, byte[] payload) {
        AmopMsg message = new AmopMsg();
        message.setSeq(command.has("seq") ? command.get("seq").asText() : Amop.newSeq());
        message.setResult(0);
        message.setType((short) command.get("type").asInt());
        message.setTopic(topic);
        message.setData(payload);
        Options options = new Options();
        options.setTimeout(command.get("timeout_ms").asLong());
        sdk.getChannel()
                .asyncSendToRandom(
                        message,
                        new ResponseCallback() {
                            @Override
                            public void onResponse(Response response) {
                                report(
                                        "frame",
                                        "id", command.get("id"),
                                        "sent_seq", message.getSeq(),
                                        "seq", response.getMessageID(),
                                        "code", response.getErrorCode(),
                                        "data", response.getContentBytes());
                            }
                        },
                        options);
    }

    private static byte[] file(String name, byte[] content) {
        byte[] nameBytes = name.getBytes(StandardCharsets.UTF_8);
        ByteBuffer buffer = ByteBuffer.allocate(8 + nameBytes.length + content.length);
        return buffer.putInt(FILE_MAGIC).putInt(nameBytes.length).put(nameBytes).put(content).array();
    }

    /** Reports each message, and answers it with its own payload. */
    private final class Receiver extends AmopCallback {
        private final boolean hold;

        Receiver(boolean hold) {
            this.hold = hold;
        }

        @Override
        public byte[] receiveAmopMsg(AmopMsgIn message) {
            byte[] content = message.getContent();
            Map<String, String> file = null;
            ByteBuffer buffer = ByteBuffer.wrap(content);
            if (content.length >= 8 && buffer.getInt() == FILE_MAGIC) {
                byte[] name = new byte[buffer.getInt()];
                buffer.get(name);
                String rest = HEX.formatHex(content, buffer.position(), content.length);
                file = Map.of("name", new String(name, StandardCharsets.UTF_8), "content", rest);
            }
            report(
                    "received",
                    "topic", message.getTopic(),
                    "private", message.getTopicType() == TopicType.PRIVATE_TOPIC,
                    "seq", message.getMessageID(),
                    "multicast", message.getType() == (short) MsgType.AMOP_MULBROADCAST.getType(),
                    "result", message.getResult(),
                    "node", node(message.getCtx()),
                    "payload", content,
                    "file", file);
            if (hold) {
                try {
                    released.await();
                } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                }
            }
            return content;
        }
    }

    private final class Answers extends AmopResponseCallback {
        private final JsonNode id;

        Answers(JsonNode command) {
            id = command.get("id");
        }

        @Override
        public void onResponse(AmopResponse response) {
            AmopMsgIn message = response.getAmopMsgIn();
            report(
                    "answered",
                    "id", id,
                    "code", response.getErrorCode(),
                    "seq", response.getMessageID(),
                    "node", node(response.getCtx()),
                    "topic", message == null ? null : message.getTopic(),
                    "payload", message == null ? null : message.getContent());
        }
    }

    private static String node(ChannelHandlerContext context) {
        return context == null ? null : context.channel().remoteAddress().toString();
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
